from __future__ import annotations

import math

from torch import Tensor

from .checks import check_images
from .precision import full_precision


@full_precision
def prediction_entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of each image's prediction.

    Args:
        logits: (N, K).

    Returns:
        (N,), in nats: 0 for a certain prediction, ln K for one that knows nothing.

    Example:
        >>> import torch
        >>> prediction_entropy(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
        tensor([0.6931, 0.0000])
    """
    log_probabilities = logits.log_softmax(dim=1)  # finite where the logarithm of a softmax isn't
    return (log_probabilities.exp() * -log_probabilities).sum(dim=1)


@full_precision
def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction of a batch: how evenly the classes are predicted.

    Args:
        logits: (N, K).

    Returns:
        A 0-d tensor in nats: 0 where all images get one class for certain, ln K where the
        classes are predicted equally often.

    Raises:
        ValueError: If there is no image.

    Example:
        >>> import torch
        >>> marginal_entropy(torch.tensor([[0.0, 1e4], [1e4, 0.0]]))
        tensor(0.6931)
    """
    check_images('the entropy of the mean prediction', target=logits)
    log_mean = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return (log_mean.exp() * -log_mean).sum()


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions. Grandvalet and Bengio, NeurIPS 2004.

    Args:
        logits: Of unlabelled target images, (N, K).

    Returns:
        A 0-d tensor in [0, ln K].

    Raises:
        ValueError: If there is no image.
    """
    check_images('entropy minimisation', target=logits)
    return prediction_entropy(logits).mean()
