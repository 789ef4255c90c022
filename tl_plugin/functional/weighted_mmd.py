from __future__ import annotations

from torch import Tensor

from .precision import full_precision


@full_precision
def weighted_mean_discrepancy(kernel: Tensor, source: Tensor, target: Tensor) -> Tensor:
    r"""Unbiased squared MMD of many weightings of the same images, from one kernel matrix.

    With weights that count how often a bootstrap sample holds each image, this is the unbiased
    estimate of :func:`maximum_mean_discrepancy` on that sample, but that pairs of an image with a
    copy of itself are left out too: they would make it too large. With 0 and 1 it is the estimate
    of a part of the images, as a permutation test needs it. With a linear kernel, the products of
    the features, it is the squared distance of the two centres, without bias.

    Args:
        kernel: (T, T), between all images of both domains.
        source: (B, T), not negative: how much each image counts for the source.
        target: (B, T), likewise for the target; no image counts for both.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 2.0], [4.0, 2.0]])
        >>> halves = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        >>> weighted_mean_discrepancy(points @ points.T, halves, 1 - halves)
        tensor([15.])
    """
    return (
        _within(kernel, source)
        + _within(kernel, target)
        - 2 * ((source @ kernel) * target).sum(1) / (source.sum(1) * target.sum(1))
    )


def _within(kernel: Tensor, weights: Tensor) -> Tensor:
    squares = weights.square()
    pairs = ((weights @ kernel) * weights).sum(1) - squares @ kernel.diagonal()
    return pairs / (weights.sum(1).square() - squares.sum(1))
