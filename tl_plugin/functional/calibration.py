"""Is a classifier as often right as it says: temperature, calibration errors, thresholds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .precision import full_precision

BINS = 15
_TEMPERATURES = (0.02, 50.0)


@full_precision
def fit_temperature(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    r"""Return the temperature that minimizes the cross-entropy of ``softmax(logits / T)``.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599. The
    cross-entropy is convex in :math:`1 / T`, so that bisection of its derivative finds the minimum.

    Args:
        logits: (N, K).
        labels: Classes, (N,).
        weights: Of the images, (N,). Defaults to None, equal ones.

    Returns:
        Between 0.02 and 50: where all images are right or none is, there is no minimum.

    Raises:
        ValueError: If there is no image.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
        >>> (logits / temperature).softmax(1)[0].round(decimals=3)
        tensor([0.7500, 0.2500])
    """
    if not len(labels) or len(logits) != len(labels):
        raise ValueError(
            f'a temperature needs labelled images, got {len(logits)} logits, {len(labels)} labels'
        )
    logits = logits.double()
    weights = torch.ones(len(labels)) if weights is None else weights
    weights = (weights / weights.sum()).to(logits)
    true = logits.gather(1, labels[:, None])[:, 0]
    low, high = (1 / end for end in reversed(_TEMPERATURES))
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = ((middle * logits).softmax(1) * logits).sum(1)
        if (weights * (expected - true)).sum() > 0:  # too sure
            high = middle
        else:
            low = middle
    return 1 / (low * high) ** 0.5


class CalibrationErrors(NamedTuple):
    """How far confidence is from accuracy, in [0, 1].

    Attributes:
        expected: Of the predicted class (ECE).
        classwise: Of the probability of each class, averaged over classes.
    """

    expected: float
    classwise: float


@full_precision
def calibration_errors(
    probabilities: Tensor, labels: Tensor, bins: int = BINS
) -> CalibrationErrors:
    """Compute the expected calibration error and its classwise form.

    In bins of equal width, the mean over images of the difference between mean probability and
    share of correct ones: of the predicted class (Naeini et al., AAAI 2015; Guo et al., ICML 2017,
    arXiv 1706.04599), and of each class, then averaged (Kull et al., NeurIPS 2019, arXiv
    1910.12656).

    Args:
        probabilities: (N, K), rows add up to 1.
        labels: Classes, (N,).
        bins: How many. Defaults to 15, as in both papers.

    Raises:
        ValueError: If there is no image.

    Example:
        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
        >>> round(calibration_errors(sure, torch.tensor([0, 1])).expected, 3)
        0.4
    """
    if not len(labels) or len(probabilities) != len(labels):
        raise ValueError(
            'a calibration error needs labelled images, got '
            f'{len(probabilities)} predictions, {len(labels)} labels'
        )
    confidence, predicted = probabilities.max(1)
    expected = expected_error(confidence, predicted == labels, bins)
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    classwise = _binned_error(probabilities, labels[:, None] == classes, bins)
    return CalibrationErrors(expected, classwise.mean().item())


def expected_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Compute the expected calibration error from what is known of the predicted classes alone.

    Args:
        confidence: Probability of the predicted class, (N,).
        right: Whether it is the true one, (N,).
        bins: How many. Defaults to 15.

    Returns:
        In [0, 1].

    Example:
        >>> round(expected_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False])), 3)
        0.4
    """
    return _binned_error(confidence[:, None], right[:, None], bins).mean().item()


def _binned_error(probabilities: Tensor, right: Tensor, bins: int) -> Tensor:
    """Return the error of each column."""
    # A probability at a bin's upper end belongs to it.
    bin_of = ((probabilities * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = (probabilities - right.to(probabilities)).double()
    sums = gaps.new_zeros(bins, probabilities.shape[1]).scatter_add_(0, bin_of, gaps)
    return sums.abs().sum(0) / len(probabilities)


def conformal_threshold(
    true_probabilities: Tensor, coverage: float, weights: Tensor | None = None
) -> float:
    r"""Return from which probability on a class belongs to an image's prediction set.

    Split conformal prediction with the least ambiguous sets of Sadinle et al., JASA 2019, arXiv
    1609.00451: the sets hold the true class of new images of the same kind with the wanted
    probability. With weights, the ratio of the densities of new and calibration images, it holds
    under a shift of the images (Tibshirani et al., "Conformal Prediction Under Covariate Shift",
    NeurIPS 2019, arXiv 1904.06019); the new image's own weight is taken to be the mean.

    Args:
        true_probabilities: Of the true class of each calibration image, (N,).
        coverage: Wanted share of images whose set holds their class, in (0, 1).
        weights: Of the images, (N,). Defaults to None, equal ones.

    Returns:
        In [0, 1]; 0, all classes, where there are too few images for the coverage.

    Raises:
        ValueError: If the coverage is out of range, or there is no image.

    Example:
        >>> conformal_threshold(torch.linspace(0.1, 1.0, 10), 0.8)  # the second lowest of 10
        0.2
    """
    if not 0 < coverage < 1 or not len(true_probabilities):
        raise ValueError(
            f'conformal sets need a coverage in (0, 1) and calibration images, got {coverage} and '
            f'{len(true_probabilities)} images'
        )
    scores, order = true_probabilities.double().sort(descending=True)
    weights = torch.ones_like(scores) if weights is None else weights.double()[order]
    # The new image counts as one that could lie anywhere.
    shares = weights.cumsum(0) / (weights.sum() + weights.mean())
    enough = shares >= coverage - 1e-9
    return round(scores[enough.int().argmax()].item(), 7) if enough.any() else 0.0
