"""Losses between the predictions of images that lie near each other."""

from __future__ import annotations

from torch import Tensor

from .precision import check_images, full_precision


@full_precision
def attraction_and_dispersion(logits: Tensor, neighbours: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return how alike predictions are to those of their neighbours, and to those of the batch.

    Yang et al., "Attracting and Dispersing: A Simple Approach for Source-free Domain Adaptation"
    (AaD), NeurIPS 2022, arXiv 2205.04183, equation 5, means over images i:

    .. math::
        A = \frac{1}{N} \sum_i \sum_{k \in C_i} p_i^\top p_k, \qquad
        D = \frac{1}{N} \sum_i \sum_{j \ne i} p_i^\top p_j

    Args:
        logits: Of the images, (N, K).
        neighbours: Probabilities of each one's neighbours, (N, k, K).

    Returns:
        A in [0, k], and D in [0, N - 1], 0-d.

    Raises:
        ValueError: If there is no image.
    """
    check_images('attraction of neighbours', target=logits)
    probabilities = logits.softmax(1)
    attraction = (probabilities[:, None] * neighbours).sum() / len(logits)
    # The sum over all pairs is that of the sum with itself; what remains of it are others.
    total = probabilities.sum(0).square().sum() - probabilities.square().sum()
    return attraction, total / len(logits)
