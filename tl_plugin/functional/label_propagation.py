"""Labels that spread from image to image in the space of features."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import check_images, full_precision

#: Rows whose similarities to all others are held at once.
_CHUNK = 1024


@full_precision
def balance_classes(probabilities: Tensor, rounds: int = 10) -> Tensor:
    """Bring predictions towards classes that are predicted equally often.

    Each round divides a class by the square root of its mean probability, and each image by its
    sum: a damped Sinkhorn iteration (Cuturi, NeurIPS 2013, arXiv 1306.0895).

    Args:
        probabilities: (N, K), rows add up to 1.
        rounds: Their number. Defaults to 10.

    Returns:
        (N, K), rows add up to 1.

    Example:
        >>> balance_classes(torch.tensor([[0.9, 0.1], [0.6, 0.4]])).argmax(1)
        tensor([0, 1])
    """
    for _ in range(rounds):
        probabilities = probabilities / probabilities.mean(0).clamp(min=1e-12).sqrt()
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
    return probabilities


@full_precision
def propagate_labels(
    points: Tensor, probabilities: Tensor, neighbours: int = 5, alpha: float = 0.9, steps: int = 30
) -> Tensor:
    r"""Spread predictions along the graph of nearest neighbours.

    Zhou et al., "Learning with Local and Global Consistency", NeurIPS 2003; Iscen et al., "Label
    Propagation for Deep Semi-supervised Learning", CVPR 2019, arXiv 1904.04717: with
    :math:`A_{ij} = \max(0, x_i \cdot x_j)^3` for the neighbours j of i, :math:`W` the larger of
    :math:`A` and :math:`A^T`, and :math:`S = D^{-1/2} W D^{-1/2}`, the steps
    :math:`F \leftarrow \alpha S F + (1 - \alpha) P`.

    Args:
        points: Features of unit length, (N, D).
        probabilities: P, (N, K).
        neighbours: Of each image, at most N - 1. Defaults to 5.
        alpha: Weight of the neighbours, in [0, 1). Defaults to 0.9.
        steps: Their number. Defaults to 30.

    Returns:
        (N, K), rows add up to 1.

    Raises:
        ValueError: If there is no image.
    """
    check_images('label propagation', target=points)
    neighbours = min(neighbours, len(points) - 1)
    if neighbours < 1:
        return probabilities
    (one, other), weights = _graph(points, neighbours)
    spread = probabilities
    for _ in range(steps):
        near = torch.zeros_like(spread)
        near.index_add_(0, one, weights * spread[other]).index_add_(0, other, weights * spread[one])
        spread = alpha * near + (1 - alpha) * probabilities
    return spread / spread.sum(1, keepdim=True)


def _graph(points: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Return S as the two ends of each edge, (2, E), and its weight, (E, 1)."""
    values, columns = [], []
    for start in range(0, len(points), _CHUNK):
        similarity = points[start : start + _CHUNK] @ points.T
        own = torch.arange(len(similarity), device=points.device)
        similarity[own, own + start] = -torch.inf
        value, column = similarity.topk(neighbours, dim=1)
        values.append(value.clamp(min=0) ** 3)
        columns.append(column)
    weights, columns = torch.cat(values), torch.cat(columns)
    rows = torch.arange(len(points), device=points.device)[:, None].expand_as(columns)
    # Mutual neighbours have two edges, of the same weight, which count as one.
    mutual = (columns[columns] == rows[..., None]).any(2)
    weights = torch.where(mutual, weights / 2, weights).flatten()
    ends = torch.stack([rows.flatten(), columns.flatten()])
    degree = weights.new_zeros(len(points))
    for end in ends:
        degree.index_add_(0, end, weights)
    scale = degree.clamp(min=1e-12).rsqrt()
    return ends, (weights * scale[ends[0]] * scale[ends[1]])[:, None]
