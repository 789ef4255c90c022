from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import full_precision


@full_precision
def starting_point_penalty(start: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""Half the squared distance of weights from where they started (L2-SP).

    Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML
    2018, arXiv 1802.01483: :math:`\frac{1}{2} \sum_j \lVert w_j - w_j^0 \rVert_2^2`.

    Args:
        start: The weights at the start, :math:`w^0`; they get no gradient.
        weights: The weights now, of the same shapes in the same order.

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If the two lists don't fit together.

    Example:
        >>> starting_point_penalty([torch.zeros(2)], [torch.tensor([3.0, 4.0])])
        tensor(12.5000)
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (start, weights)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f'the weights at the start and now must have the same shapes, got {shapes[0]} and '
            f'{shapes[1]}'
        )
    terms = [(now - then.detach()).square().sum() for then, now in zip(start, weights)]
    return 0.5 * torch.stack(terms).sum()
