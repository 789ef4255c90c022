"""Whether features still tell images apart."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision

_TINY = 1e-12


@full_precision
def effective_rank(features: Tensor) -> Tensor:
    r"""How many directions a batch of features uses, on a continuous scale.

    Roy and Vetterli, "The Effective Rank", EUSIPCO 2007: :math:`\exp(-\sum_i p_i \ln p_i)` with
    :math:`p_i = \sigma_i / \sum_j \sigma_j`, the singular values of the centred matrix.

    Args:
        features: (N, D).

    Returns:
        A 0-d tensor in [1, min(N - 1, D)]; 0 where all rows are equal.

    Example:
        >>> effective_rank(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))
        tensor(2.)
    """
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    total = values.sum()
    rank = torch.special.entr(values / total.clamp(min=_TINY)).sum().exp()
    return torch.where(total > _TINY, rank, torch.zeros_like(rank))


@full_precision
def relative_spread(features: Tensor) -> Tensor:
    """How far features lie from their mean, relative to their norm, as root mean squares.

    Args:
        features: (N, D).

    Returns:
        A 0-d tensor in [0, 1]: 0 where all are one point, 1 where their mean is zero.

    Example:
        >>> round(relative_spread(torch.tensor([[3.0, 0.0], [5.0, 0.0]])).item() ** 2 * 17, 4)
        1.0
    """
    around = (features - features.mean(dim=0)).square().sum()
    return (around / features.square().sum().clamp(min=_TINY)).sqrt()
