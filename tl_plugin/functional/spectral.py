"""Singular values of feature matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import check_images, full_precision


@full_precision
def largest_singular_values(features: Tensor, k: int = 1) -> Tensor:
    """Return the squares of the k largest singular values of a matrix.

    Args:
        features: (N, D).
        k: How many; all, where the matrix has fewer. Defaults to 1.

    Returns:
        (min(k, N, D),), the largest first, with a finite gradient where values are equal or zero.
    """
    # They are the eigenvalues of the smaller Gram matrix; unlike those of vectors, gradients of
    # values divide by no difference between them.
    wide = features.shape[0] <= features.shape[1]
    gram = features @ features.T if wide else features.T @ features
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)[:k]


def batch_spectral_penalty(source: Tensor, target: Tensor, k: int = 1) -> Tensor:
    r"""Sum the k largest squared singular values of each domain's feature matrix (BSP).

    Chen et al., "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial
    Domain Adaptation", ICML 2019:
    :math:`\sum_{i=1}^k (\sigma_{s,i}^2 + \sigma_{t,i}^2)`.

    Args:
        source: (N, D).
        target: (M, D).
        k: How many singular values of each domain. Defaults to 1, as in the paper.

    Returns:
        A 0-d tensor, not negative. It grows with the number of images.

    Raises:
        ValueError: If a domain has no image, or k isn't positive.
    """
    check_images('the batch spectral penalty', source=source, target=target)
    if k < 1:
        raise ValueError(f'k must be at least 1, got {k}')
    return largest_singular_values(source, k).sum() + largest_singular_values(target, k).sum()


@full_precision
def batch_spectral_shrinkage(features: Tensor, k: int = 1) -> Tensor:
    r"""Return the sum of the k smallest squared singular values of a feature matrix (BSS).

    Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe
    Transfer Learning", NeurIPS 2019: :math:`\sum_{i=1}^k \sigma_{-i}^2`, where
    :math:`\sigma_{-i}` is the i-th smallest of the min(N, D) singular values.

    Args:
        features: (N, D).
        k: How many; all, where the matrix has fewer. Defaults to 1, as in the paper.

    Returns:
        A 0-d tensor, not negative, with a finite gradient where values are equal or zero.

    Raises:
        ValueError: If there is no image, or k isn't positive.
    """
    check_images('batch spectral shrinkage', images=features)
    if k < 1:
        raise ValueError(f'k must be at least 1, got {k}')
    # Not from the eigenvalues of a Gram matrix, where rounding of the largest ones swamps the
    # smallest. Gradients of singular values alone divide by no difference between them.
    return torch.linalg.svdvals(features)[-k:].square().sum()


_TINY = 1e-12


@full_precision
def effective_rank(features: Tensor) -> Tensor:
    r"""Return how many directions a batch of features uses, on a continuous scale.

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
    """Return how far features lie from their mean, relative to their norm, as root mean squares.

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
