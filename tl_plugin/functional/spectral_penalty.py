from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_images
from .precision import full_precision


@full_precision
def largest_singular_values(features: Tensor, k: int = 1) -> Tensor:
    """Squares of the k largest singular values of a matrix.

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
    r"""Sum of the k largest squared singular values of each domain's feature matrix (BSP).

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
