from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


@full_precision
def centroid_pseudo_labels(features: Tensor, probabilities: Tensor, rounds: int = 1) -> Tensor:
    r"""Labels of images by the nearest class centroid, in cosine distance.

    Liang et al., "Do We Really Need to Access the Source Data? Source Hypothesis Transfer for
    Unsupervised Domain Adaptation" (SHOT), ICML 2020, arXiv 2002.08546, equations 5 to 7: centroids
    first weigh each image by its probability of the class,
    :math:`c_k = \sum_i p_{ik} x_i / \sum_i p_{ik}`, then, each further round, are the means of the
    images that have the label. As in the authors' code a one is appended to the features, and a
    class that loses all its images is no candidate any more.

    Args:
        features: Of all target images, (N, D).
        probabilities: (N, K), rows add up to 1.
        rounds: How often centroids are computed again from the labels. Defaults to 1, as there.

    Returns:
        Class indices, (N,).

    Raises:
        ValueError: If there is no image, or the numbers of rows differ.

    Example:
        >>> features = torch.tensor([[2.0, 0.0], [3.0, 0.1], [0.0, 2.0], [0.1, 3.0]])
        >>> guesses = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.2, 0.8]])
        >>> centroid_pseudo_labels(features, guesses)  # the second one's neighbour is the first
        tensor([0, 0, 1, 1])
    """
    if len(features) != len(probabilities) or len(features) == 0:
        raise ValueError(
            'centroids need features and probabilities of the same images, at least one, got '
            f'{len(features)} and {len(probabilities)} rows'
        )
    ones = features.new_ones(len(features), 1)
    points = F.normalize(torch.cat([features, ones], dim=1), dim=1)
    shares = probabilities
    alive = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).any(dim=0)
    labels = _nearest(points, shares, alive)
    for _ in range(rounds):
        shares = F.one_hot(labels, probabilities.shape[1]).to(points)
        alive = shares.any(dim=0)
        labels = _nearest(points, shares, alive)
    return labels


def _nearest(points: Tensor, shares: Tensor, alive: Tensor) -> Tensor:
    centroids = shares.T @ points / shares.sum(dim=0).clamp(min=1e-8)[:, None]
    similarity = points @ F.normalize(centroids, dim=1).T
    return similarity.masked_fill(~alive, -float('inf')).argmax(dim=1)
