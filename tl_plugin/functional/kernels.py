from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import full_precision

# Below every distance that means something and so large that dividing by it stays finite.
_SMALLEST_SCALE = 1e-30


@full_precision
def squared_distances(points: Tensor) -> Tensor:
    """Squared Euclidean distances between all pairs of rows, with a gradient where they are zero.

    Args:
        points: (N, D).

    Returns:
        (N, N), symmetric, not negative.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    # No tensor of N * N * D numbers; centred first, since |a|^2 + |b|^2 - 2ab cancels far from 0.
    points = points - points.mean(dim=0, keepdim=True).detach()
    square = points.square().sum(dim=1)
    distances = square[:, None] + square[None, :] - 2 * points @ points.T
    return distances.clamp(min=0).masked_fill(_diagonal(points), 0)


@full_precision
def gaussian_kernel(
    points: Tensor, bandwidths: Sequence[float], scale: float | None = None
) -> Tensor:
    r"""Mean of Gaussian kernels between all pairs of rows.

    .. math::
        k(x, y) = \frac{1}{m} \sum_{u=1}^m \exp\left(-\frac{\|x - y\|^2}{b_u s}\right)

    Args:
        points: (N, D).
        bandwidths: The m factors b_u.
        scale: s; None takes the mean squared distance between two different rows, as a constant
            without gradient, so that the kernel doesn't depend on the unit of the features.
            Defaults to None.

    Returns:
        (N, N), in [0, 1], 1 on the diagonal.

    Raises:
        ValueError: If there is no bandwidth, or one of them isn't positive.
    """
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f'bandwidths must be positive, at least one of them, got {bandwidths}')
    distances = squared_distances(points)
    if scale is None:
        num_pairs = max(len(points) * (len(points) - 1), 1)
        scale = (distances.detach().sum() / num_pairs).clamp(min=_SMALLEST_SCALE)
    kernels = [torch.exp(distances / (-bandwidth * scale)) for bandwidth in bandwidths]
    return torch.stack(kernels).mean(dim=0)


def _diagonal(points: Tensor) -> Tensor:
    return torch.eye(len(points), dtype=torch.bool, device=points.device)
