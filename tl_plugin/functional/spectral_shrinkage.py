from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_images
from .precision import full_precision


@full_precision
def batch_spectral_shrinkage(features: Tensor, k: int = 1) -> Tensor:
    r"""Sum of the k smallest squared singular values of a feature matrix (BSS).

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
    # Not by the eigenvalues of a Gram matrix, as the largest ones are: those lose the small ones in
    # the rounding of the largest. Gradients of values alone divide by no difference of two.
    return torch.linalg.svdvals(features)[-k:].square().sum()
