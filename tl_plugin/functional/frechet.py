from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_images
from .coral import covariance
from .precision import full_precision


@full_precision
def frechet_distance(source: Tensor, target: Tensor) -> Tensor:
    r"""Fréchet distance of two sets of features, each taken for a Gaussian.

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions", JMVA 1982;
    of a network's features in Heusel et al. (FID), NeurIPS 2017, arXiv 1706.08500:

    .. math::
        \|\mu_s - \mu_t\|^2 + \mathrm{tr}\left(C_s + C_t - 2 (C_s C_t)^{1/2}\right)

    Few images of many features overestimate it; compare equal numbers, or reduce the features.

    Args:
        source: (N, D), N at least 2.
        target: (M, D), M at least 2.

    Returns:
        A 0-d tensor, not negative, in double precision.

    Raises:
        ValueError: If a domain has fewer than two images.

    Example:
        >>> points = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(points, points + 3)
        tensor(9., dtype=torch.float64)
    """
    check_images('the Fréchet distance', minimum=2, source=source, target=target)
    source, target = source.double(), target.double()
    means = (source.mean(0) - target.mean(0)).square().sum()
    covariances = covariance(source), covariance(target)
    root = _root(covariances[0])
    # The eigenvalues of the product of both, which itself isn't symmetric.
    both = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    traces = sum(matrix.trace() for matrix in covariances)
    return (means + traces - 2 * both).clamp(min=0)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
