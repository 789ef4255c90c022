"""Losses that learn less from wrong labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


def soft_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Turn labels into one probability per class.

    Args:
        labels: Class numbers, (N,) or (N, 1), -1 where there is none; or soft labels, (N, K).
        num_classes: K.
        smoothing: Share of a label that is spread evenly over the classes. Defaults to 0.

    Returns:
        (N, K); a row of zeros where there is no label.

    Example:
        >>> import torch
        >>> soft_targets(torch.tensor([1, -1]), 2, smoothing=0.2)
        tensor([[0.1000, 0.9000],
                [0.0000, 0.0000]])
    """
    if labels.is_floating_point() or (labels.dim() == 2 and labels.shape[1] == num_classes > 1):
        known, targets = 1.0, labels.float()
    else:
        labels = labels.reshape(-1)
        known = (labels >= 0).float()[:, None]
        targets = F.one_hot(labels.clamp(min=0), num_classes).float()
    return known * ((1 - smoothing) * targets + smoothing / num_classes)


@full_precision
def generalized_cross_entropy(logits: Tensor, targets: Tensor, q: float = 0.7) -> Tensor:
    r"""Return the generalized cross-entropy of each image.

    Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018, arXiv 1805.07836, equation 6, in expectation over the target:
    :math:`\sum_k y_k (1 - p_k^q) / q`. It is the cross-entropy for q towards 0 and, for q = 1, the
    mean absolute error, which no symmetric noise misleads and which is slow to learn.

    Args:
        logits: (N, K).
        targets: (N, K), of :func:`soft_targets`.
        q: In (0, 1]. Defaults to 0.7, as in the paper.

    Returns:
        (N,), at most 1 / q for a hard label.

    Example:
        >>> import torch
        >>> generalized_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), q=1.0)
        tensor([0.5000])
    """
    # 1 - p^q by its logarithm: exact near p = 1, with a finite gradient at p = 0.
    return (targets * -(q * logits.log_softmax(dim=1)).expm1() / q).sum(dim=1)


@full_precision
def symmetric_cross_entropy(
    logits: Tensor, targets: Tensor, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0
) -> Tensor:
    r"""Return the symmetric cross-entropy of each image.

    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019, arXiv
    1908.06322, equations 5 to 7: :math:`\alpha H(y, p) + \beta H(p, y)`, where the logarithm of a
    zero in the label is a constant A.

    Args:
        logits: (N, K).
        targets: (N, K), of :func:`soft_targets`.
        alpha: Weight of the cross-entropy. Defaults to 0.1, as in the paper for CIFAR-10; it takes
            6 for CIFAR-100.
        beta: Weight of the reverse cross-entropy. Defaults to 1.
        log_zero: A, negative; smaller logarithms are raised to it. Defaults to -4, as in the paper.

    Returns:
        (N,).
    """
    log_probabilities = logits.log_softmax(dim=1)
    cross = -(targets * log_probabilities).sum(dim=1)
    log_targets = targets.log().clamp(min=log_zero)
    labelled = targets.sum(dim=1)  # a row of zeros is no label
    reverse = -(log_probabilities.exp() * log_targets).sum(dim=1) * labelled
    return alpha * cross + beta * reverse


@full_precision
def early_learning_targets(
    targets: Tensor, logits: Tensor, images: Tensor, momentum: float = 0.7
) -> Tensor:
    r"""Return the moving averages of the predictions for some images, with these predictions.

    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020,
    arXiv 2007.00151, equation 9: :math:`t_i \leftarrow \beta t_i + (1 - \beta) p_i`. As in the
    authors' code, probabilities are between 1e-4 and 1 - 1e-4 and then add up to 1.

    Args:
        targets: Those of the images before, (N, K); zeros at first.
        logits: Of the images, (N, K). They get no gradient.
        images: Numbers of the images, (N,). One that comes twice counts with its mean prediction.
        momentum: beta, in [0, 1). Defaults to 0.7.

    Returns:
        (N, K), equal for an image that comes twice.
    """
    predicted = _bounded_probabilities(logits.detach())
    predicted = predicted / predicted.sum(dim=1, keepdim=True)
    same = (images[:, None] == images).to(predicted)
    predicted = same @ predicted / same.sum(dim=1, keepdim=True)
    return momentum * targets + (1 - momentum) * predicted


@full_precision
def early_learning_loss(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return the early-learning regularization of each image.

    Liu et al., NeurIPS 2020, arXiv 2007.00151, equation 6: :math:`\log(1 - \langle p, t \rangle)`,
    which is smallest where the prediction is the target.

    Args:
        logits: (N, K).
        targets: Of :func:`early_learning_targets`, (N, K).

    Returns:
        (N,), not positive.
    """
    return (1 - (targets * _bounded_probabilities(logits)).sum(dim=1)).log()


def _bounded_probabilities(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1).clamp(min=1e-4, max=1 - 1e-4)


def small_losses(losses: Tensor, groups: Tensor, forget_rate: Tensor) -> Tensor:
    """Return which images have the small losses of a batch, each group of images by itself.

    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
    NeurIPS 2018, arXiv 1804.06872, line 5 of algorithm 1. Of equal losses the earlier counts as the
    smaller.

    Args:
        losses: (N,).
        groups: Number of the group of each, (N,).
        forget_rate: Largest share of each group that is left out, 0-d, in [0, 1).

    Returns:
        (N,) bool, true for at least one image of each group.

    Example:
        >>> losses, group = torch.tensor([0.3, 0.1, 0.2, 0.4]), torch.zeros(4)
        >>> small_losses(losses, group, torch.tensor(0.5))
        tensor([False,  True,  True, False])
    """
    same = groups[:, None] == groups
    place = torch.arange(len(losses), device=losses.device)
    equal = (losses == losses[:, None]) & (place < place[:, None])
    before = (same & ((losses < losses[:, None]) | equal)).sum(dim=1)
    # A whole number that a rounding error has lifted is none more.
    kept = ((1 - forget_rate) * same.sum(dim=1) - 1e-4).ceil()
    return before < kept
