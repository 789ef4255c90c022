from __future__ import annotations

import math

from torch import Tensor


def multilinear_map(features: Tensor, predictions: Tensor) -> Tensor:
    """Outer product of each image's features and predictions.

    Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv 1705.10667: unlike
    a concatenation it tells apart the joint distributions of features and classes.

    Args:
        features: (N, D).
        predictions: Probabilities, (N, K).

    Returns:
        (N, D * K).

    Example:
        >>> import torch
        >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.7500, 0.5000, 1.5000]])
    """
    return (features[:, :, None] * predictions[:, None, :]).flatten(start_dim=1)


def random_multilinear_map(
    features: Tensor,
    predictions: Tensor,
    feature_projection: Tensor,
    prediction_projection: Tensor,
) -> Tensor:
    r"""Approximates :func:`multilinear_map` in fewer dimensions.

    :math:`T(f, g) = \frac{1}{\sqrt d} (f R_f) \odot (g R_g)`, equation 6 of the same paper. Inner
    products of such vectors are, in expectation over the projections, those of the outer products.

    Args:
        features: (N, D).
        predictions: Probabilities, (N, K).
        feature_projection: Fixed random numbers of mean 0 and variance 1, (D, d).
        prediction_projection: The same, (K, d).

    Returns:
        (N, d).
    """
    channels = feature_projection.shape[1]
    projected = (features @ feature_projection) * (predictions @ prediction_projection)
    return projected / math.sqrt(channels)
