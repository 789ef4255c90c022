"""Is a classifier as often right as it says: temperature, calibration errors, thresholds."""

from __future__ import annotations

import math
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


class ShrunkTemperature(NamedTuple):
    """A temperature, as far as images tell it from 1.

    Attributes:
        value: To divide logits by.
        fitted: The one with the least cross-entropy.
        deviation: Standard error of the logarithm of ``fitted``; infinite where it has none.
    """

    value: float
    fitted: float
    deviation: float


@full_precision
def shrunk_temperature(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    images: Tensor | None = None,
) -> ShrunkTemperature:
    r"""Fit a temperature and shrink it towards 1 by how little the images say of it.

    With :math:`\theta = \log T` and its standard error :math:`s`, the logarithm becomes
    :math:`\theta\,\max(0, 1 - s^2 / \theta^2)`: positive-part shrinkage (James and Stein, 1961), of
    one coefficient the nonnegative garrote (Breiman, "Better Subset Regression Using the
    Nonnegative Garrote", Technometrics 1995). So a temperature within its standard error of 1 is
    left out, and one that many images agree on stays as it is. The error is that of M-estimates
    (Huber, 1967), with copies of one image counted as one (Liang and Zeger, Biometrika 1986).

    Args:
        logits: (N, K).
        labels: Classes, (N,).
        weights: Of the rows, (N,). Defaults to None, equal ones.
        images: Number of the image that each row is of, (N,). Defaults to None, each of its own.

    Returns:
        A value of 1 where all images are right or none is, as there is no minimum.

    Raises:
        ValueError: If there is no image.
    """
    fitted = fit_temperature(logits, labels, weights)
    low, high = _TEMPERATURES
    if not 1.001 * low < fitted < 0.999 * high:
        return ShrunkTemperature(1.0, fitted, math.inf)
    cooled = logits.double() / fitted
    weights = cooled.new_ones(len(labels)) if weights is None else weights.to(cooled)
    probabilities = cooled.softmax(1)
    mean = (probabilities * cooled).sum(1)
    # Derivatives of the cross-entropy by the logarithm of the temperature.
    slopes = weights * (cooled.gather(1, labels[:, None])[:, 0] - mean)
    curvature = (weights * (probabilities * (cooled - mean[:, None]).square()).sum(1)).sum()
    if images is not None:
        places = images.unique(return_inverse=True)[1]
        slopes = slopes.new_zeros(int(places.max()) + 1).index_add_(0, places, slopes)
    deviation = (slopes.square().sum().sqrt() / curvature).item()
    logarithm = math.log(fitted)
    kept = max(0.0, 1 - (deviation / logarithm) ** 2) if logarithm else 0.0
    return ShrunkTemperature(math.exp(kept * logarithm), fitted, deviation)


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


def error_by_chance(confidence: Tensor, resamples: int = 200, seed: int = 0) -> float:
    """Return the expected calibration error that a calibrated model shows on so many images.

    It isn't zero, for in each bin the share of correct ones differs from the confidence by chance.
    Outcomes are drawn from the confidences themselves (consistency resampling; Broecker and Smith,
    "Increasing the Reliability of Reliability Diagrams", Weather and Forecasting 2007).

    Args:
        confidence: Probability of the predicted class, (N,).
        resamples: How often. Defaults to 200.
        seed: Of the draws. Defaults to 0.

    Returns:
        The mean over the draws, in [0, 1].

    Example:
        >>> few, many = torch.full((40,), 0.8), torch.full((40_000,), 0.8)
        >>> error_by_chance(few) > 0.03, error_by_chance(many) < 0.003
        (True, True)
    """
    confidence = confidence.double()[:, None].expand(-1, resamples)
    drawn = torch.rand(
        confidence.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return _binned_error(confidence, drawn.to(confidence.device) < confidence, BINS).mean().item()


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
