"""Losses and labels from the predictions of a classifier."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import check_images, full_precision


@full_precision
def prediction_entropy(logits: Tensor) -> Tensor:
    """Return the Shannon entropy of each image's prediction.

    Args:
        logits: (N, K).

    Returns:
        (N,), in nats: 0 for a certain prediction, ln K for a uniform one.

    Example:
        >>> import torch
        >>> prediction_entropy(torch.tensor([[0.0, 0.0], [0.0, 1e4]]))
        tensor([0.6931, 0.0000])
    """
    log_probabilities = logits.log_softmax(dim=1)  # finite where the logarithm of a softmax isn't
    return (log_probabilities.exp() * -log_probabilities).sum(dim=1)


@full_precision
def marginal_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the mean prediction of a batch: how evenly the classes are predicted.

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
    """Return the mean entropy of the predictions. Grandvalet and Bengio, NeurIPS 2004.

    Args:
        logits: Of unlabelled target images, (N, K).

    Returns:
        A 0-d tensor in [0, ln K].

    Raises:
        ValueError: If there is no image.
    """
    check_images('entropy minimisation', target=logits)
    return prediction_entropy(logits).mean()


@full_precision
def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    r"""Return how much the predictions of a batch confuse classes (MCC).

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020, arXiv
    1912.03699. With probabilities :math:`y_{ij}` at a temperature, the weights
    :math:`w_i = N (1 + e^{-H(y_i)}) / \sum_{i'} (1 + e^{-H(y_{i'})})`, which trust certain
    predictions more and pass no gradient, and K classes:

    .. math::
        C_{jk} = \sum_i w_i y_{ij} y_{ik}, \qquad
        \tilde C_{jk} = C_{jk} / \sum_{k'} C_{jk'}, \qquad
        L = \frac{1}{K} \sum_j \sum_{k \ne j} \tilde C_{jk}

    Args:
        logits: Of target images, (N, K).
        temperature: Divides the logits. Defaults to 2.5, as in the paper.

    Returns:
        A 0-d tensor in [0, 1 - 1 / K].

    Raises:
        ValueError: If there is no image, or the temperature isn't positive.
    """
    check_images('the class confusion', target=logits)
    if temperature <= 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')
    logits = logits / temperature
    log_probabilities = logits.log_softmax(dim=1)
    log_weights = (1 + (-prediction_entropy(logits.detach())).exp()).log()
    # An image's probabilities add up to one, so C's row j adds up to sum_i w_i y_ij, and dividing
    # by it is a softmax over the images. That never divides by the zero of a class that
    # no image has. The rows of the quotient add up to one, so the off-diagonal sum is 1 - C_jj.
    shares = (log_weights[:, None] + log_probabilities).softmax(dim=0)
    return 1 - (shares * log_probabilities.exp()).sum() / logits.shape[1]


def pseudo_label_loss(
    weak_logits: Tensor,
    strong_logits: Tensor,
    threshold: float | Tensor,
    soft: bool = False,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of a strong view against the confident predictions on the weak one.

    Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685, equation 4. The predictions on the
    weak view carry no gradient; images below the threshold count as zero in the mean.

    Args:
        weak_logits: Scores of the weakly augmented images, (N, K).
        strong_logits: Scores of the strongly augmented ones, (N, K).
        threshold: The least probability of the predicted class that counts, in [0, 1].
        soft: Whether the probabilities are the labels, as in AdaMatch, instead of the class that is
            predicted. Defaults to False.
        class_weights: Weights of images by predicted class, (K,). Defaults to None, equal ones.

    Returns:
        The loss, 0-d, and which images were confident, (N,) bool.

    Raises:
        ValueError: If there is no image, or the two views differ in shape.

    Example:
        >>> weak, strong = torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.zeros(2, 2)
        >>> loss, confident = pseudo_label_loss(weak, strong, 0.95)
        >>> confident
        tensor([ True, False])
    """
    if weak_logits.shape != strong_logits.shape:
        raise ValueError(
            'a pseudo-label loss needs both views of the same target images, got scores of shape '
            f'{tuple(weak_logits.shape)} and {tuple(strong_logits.shape)}'
        )
    check_images('a pseudo-label loss', target=weak_logits)
    probabilities = weak_logits.detach().float().softmax(1)
    confidence, label = probabilities.max(1)
    confident = confidence >= threshold
    labels = probabilities if soft else label
    losses = F.cross_entropy(strong_logits.float(), labels, reduction='none') * confident
    if class_weights is not None:
        losses = losses * class_weights[label]
    return losses.mean(), confident


def balancing_weights(logits: Tensor, threshold: float | Tensor) -> Tensor:
    """Return weights with which every class that is predicted confidently counts alike.

    Args:
        logits: Scores of target images, (N, K).
        threshold: The least probability of the predicted class that counts, in [0, 1].

    Returns:
        (K,), mean 1 over the confident images; 0 for classes without one. Without gradient.

    Example:
        >>> balancing_weights(torch.tensor([[9.0, 0, 0], [9, 0, 0], [9, 0, 0], [0, 9, 0]]), 0.9)
        tensor([0.6667, 2.0000, 0.0000])
    """
    confidence, label = logits.detach().float().softmax(1).max(1)
    chosen = F.one_hot(label, logits.shape[1]) * (confidence >= threshold)[:, None]
    counts = chosen.sum(0).float()
    share = counts.sum() / (counts > 0).sum().clamp(min=1)
    return torch.where(counts > 0, share / counts.clamp(min=1), 0.0)


@full_precision
def log_class_ratio(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return how much more often each class is predicted in the source, as a logarithm.

    Added to a target image's scores it aligns the distributions of predicted classes, AdaMatch's
    equation 2: probabilities times the source's mean over the target's, normalized. Berthelot et
    al., ICLR 2022, arXiv 2106.04732.

    Args:
        source_logits: Scores of source images, (N, K).
        target_logits: Scores of target images, (M, K).

    Returns:
        (K,), without gradient.

    Raises:
        ValueError: If a domain has no image.
    """
    check_images('distribution alignment', source=source_logits, target=target_logits)
    source, target = (
        logits.detach().log_softmax(1).logsumexp(0) - math.log(len(logits))
        for logits in (source_logits, target_logits)
    )
    return source - target


def relative_threshold(source_logits: Tensor, threshold: float) -> Tensor:
    """Return a threshold relative to how confident the model is on the source.

    Berthelot et al., "AdaMatch", ICLR 2022, arXiv 2106.04732, equation 5: ``threshold`` times the
    mean probability of the predicted class on weakly augmented source images.

    Args:
        source_logits: Scores of source images, (N, K).
        threshold: Factor, in [0, 1].

    Returns:
        A 0-d tensor without gradient.

    Raises:
        ValueError: If there is no image.
    """
    check_images('a relative threshold', source=source_logits)
    return threshold * source_logits.detach().float().softmax(1).max(1).values.mean()


@full_precision
def centroid_pseudo_labels(features: Tensor, probabilities: Tensor, rounds: int = 1) -> Tensor:
    r"""Label images by the nearest class centroid, in cosine distance.

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
        >>> centroid_pseudo_labels(features, guesses)  # the second image lies near the first
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
    present = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).any(dim=0)
    labels = _nearest(points, shares, present)
    for _ in range(rounds):
        shares = F.one_hot(labels, probabilities.shape[1]).to(points)
        present = shares.any(dim=0)
        labels = _nearest(points, shares, present)
    return labels


def _nearest(points: Tensor, shares: Tensor, present: Tensor) -> Tensor:
    centroids = shares.T @ points / shares.sum(dim=0).clamp(min=1e-8)[:, None]
    similarity = points @ F.normalize(centroids, dim=1).T
    return similarity.masked_fill(~present, -float('inf')).argmax(dim=1)


class Flips(NamedTuple):
    """Shares of images, in [0, 1].

    Attributes:
        flipped: The two models predict different classes.
        gained: The source model is wrong and the adapted one right. None without labels.
        lost: The source model is right and the adapted one wrong. None without labels.
    """

    flipped: float
    gained: float | None = None
    lost: float | None = None


def prediction_flips(source: Tensor, adapted: Tensor, labels: Tensor | None = None) -> Flips:
    """Compare two models' predictions image by image.

    Args:
        source: Classes that the source model predicts, (N,).
        adapted: Classes that the adapted model predicts for the same images, (N,).
        labels: True classes, (N,), -1 where there is none. Defaults to None.

    Returns:
        The shares; those with labels are of the labelled images.

    Raises:
        ValueError: If there is no image, or the numbers of images differ.

    Example:
        >>> import torch
        >>> flips = prediction_flips(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]),
        ...                          torch.tensor([0, 0, 1, 0]))
        >>> flips.flipped, flips.gained, flips.lost
        (0.5, 0.25, 0.25)
    """
    sizes = {len(values) for values in (source, adapted, labels) if values is not None}
    if len(sizes) != 1 or not len(source):
        raise ValueError(
            'predictions are compared image by image: expected as many of both models, at least '
            f'one, got {len(source)} and {len(adapted)}'
            + ('' if labels is None else f' with {len(labels)} labels')
        )
    flipped = (source != adapted).float().mean().item()
    known = None if labels is None else labels >= 0
    if known is None or not known.any():
        return Flips(flipped)
    right_before, right_now = source == labels, adapted == labels
    gained, lost = ~right_before & right_now, right_before & ~right_now
    return Flips(flipped, *(each[known].float().mean().item() for each in (gained, lost)))
