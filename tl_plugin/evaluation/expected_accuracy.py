"""Accuracy to be expected on images without labels, with an interval, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tl_plugin.functional.expected_accuracy import (
    confidence_accuracy,
    threshold_accuracy,
    transport_accuracy,
)

from .source_reference import LEAST_PROBABILITY, Outputs, SourceReference

#: What the intervals are to hold in.
LEVEL = 0.9
#: So many deviations they reach each way. A normal deviate's 1.6 held for three of four models
#: alone, since fields differ from the source in more than corruptions and estimates err high. With
#: this they hold for nine in ten of the 104 models that it was fitted to, of the eight pairs of
#: tools/benchmarks/recommendations.py --no-target-labels, and for fewer of other pairs.
REACH = 2.3
#: Fewer images of the target, or of the source, say too little.
LEAST_IMAGES = 30
#: How far below everything in the meta-set an estimate may lie before it isn't trusted.
MARGIN = 0.1
#: How far off the estimates may be on the meta-set itself, on average, to be trusted.
MAX_ERROR = 0.15
#: Weight of the raw estimates beside the meta-set's, in sets.
PRIOR_SETS = 4.0


@dataclass(frozen=True)
class ExpectedAccuracy:
    """An estimate of accuracy without labels.

    Args:
        value: Share of the images that are expected to be right, in [0, 1]; None where nothing
            supports an estimate, and then :attr:`reason` says why.
        low: Lower end of the interval.
        high: Upper end of the interval.
        reason: Why there is no estimate; None where there is one.
        images: Number of target images.
        estimators: Estimator -> its own estimate, read off the meta-set.
        raw: Estimator -> its estimate as it was published.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    images: int = 0
    estimators: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)

    def in_words(self) -> str:
        """Return it as text, in percent.

        >>> ExpectedAccuracy(0.712, 0.6, 0.81).in_words()
        '71% (90% interval 60 to 81)'
        >>> ExpectedAccuracy(None, reason='3 target images are too few').in_words()
        'not known: 3 target images are too few'
        """
        if self.value is None:
            return f'not known: {self.reason}'
        low, high = 100 * self.low, 100 * self.high
        return f'{100 * self.value:.0f}% ({LEVEL:.0%} interval {low:.0f} to {high:.0f})'

    def to_json(self) -> dict:
        """Return plain values."""
        return asdict(self)


def expected_accuracy(reference: SourceReference, probabilities: Tensor) -> ExpectedAccuracy:
    """Estimate how many images a model predicts right, without labels of theirs.

    Three published estimators (ATC, DoC, COT, see :mod:`tl_plugin.functional.expected_accuracy`)
    are computed on the images. How far off each of them is for this model is read off degraded
    source images, on which the accuracy is known (AutoEval, Deng and Zheng, CVPR 2021, arXiv
    2007.02915): a line through estimate and accuracy, both as log-odds, drawn towards the estimate
    itself. The result is their mean.

    Args:
        reference: Of the same model, see
            :func:`~tl_plugin.evaluation.source_reference.source_reference`.
        probabilities: Of the target images, (N, K), rows add up to 1.

    Returns:
        The estimate; without a value where there are too few images, the model isn't better than
        chance on the source, or the target is harder than anything in the meta-set.

    Raises:
        ValueError: If the classes differ in number.
    """
    classes = reference.source.log_probabilities.shape[1]
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(
            f'expected accuracy needs probabilities of {classes} classes, one row an image, got '
            f'{tuple(probabilities.shape)}'
        )
    count = len(probabilities)
    reason = _too_few(count, reference)
    if reason:
        return ExpectedAccuracy(None, reason=reason, images=count)
    target = probabilities.float().clamp(min=LEAST_PROBABILITY).log()
    raw = raw_estimates(reference.source, target)
    sets = [reference.source, *reference.degraded.values()]
    known = np.array([outputs.accuracy() for outputs in sets])
    on_sets = [raw_estimates(reference.source, outputs.log_probabilities) for outputs in sets]
    read, errors = {}, []
    for name, estimate in raw.items():
        before = np.array([one[name] for one in on_sets])
        read[name], error = read_off(before, known, estimate)
        errors.append(error)
    value = fmean(read.values())
    reason = _outside(raw, on_sets) or _unreliable(fmean(errors))
    if reason:
        return ExpectedAccuracy(None, None, None, reason, count, read, raw)
    low, high = _interval(
        value, list(read.values()), fmean(errors), count, len(reference.source.labels)
    )
    return ExpectedAccuracy(value, low, high, None, count, read, raw)


def raw_estimates(source: Outputs, target: Tensor) -> dict[str, float]:
    """Compute the published estimators.

    Args:
        source: On held-out source images, all with labels.
        target: Log-probabilities of the other images, (N, K).
    """
    right = source.log_probabilities.argmax(1) == source.labels
    classes = source.log_probabilities.shape[1]
    prior = F.one_hot(source.labels, classes).float().mean(0)
    return {
        'atc': float(threshold_accuracy(source.log_probabilities, right, target)),
        'doc': float(confidence_accuracy(source.log_probabilities, right, target)),
        'cot': float(transport_accuracy(prior, target)),
    }


def read_off(estimates: np.ndarray, known: np.ndarray, estimate: float) -> tuple[float, float]:
    """Read an estimate off the line through estimates and known accuracies, as log-odds.

    The line is drawn towards the diagonal, as :data:`PRIOR_SETS` sets on it would.

    Args:
        estimates: Of the sets of the meta-set, (S,).
        known: Their accuracies, (S,).
        estimate: Of the target.

    Returns:
        The accuracy that is read off, and the sets' mean distance from the line.
    """
    x, y = _log_odds(estimates), _log_odds(known)
    centre = x.mean()
    spread = max(float(np.square(x - centre).sum()), 1e-6)
    weight = PRIOR_SETS * spread / len(x)
    shift = float((y - x).sum() / (len(x) + PRIOR_SETS))
    slope = 1 + float(((x - centre) * (y - x - (y - x).mean())).sum() / (spread + weight))
    line = lambda at: centre + shift + slope * (at - centre)  # noqa: E731
    errors = np.abs(_share(line(x)) - known)
    return float(_share(line(_log_odds(np.array(estimate))))), float(errors.mean())


def _log_odds(shares: np.ndarray) -> np.ndarray:
    shares = np.clip(shares, 0.01, 0.99)
    return np.log(shares / (1 - shares))


def _share(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


def _interval(
    value: float, estimates: list[float], error: float, images: int, source_images: int
) -> tuple[float, float]:
    sampling = value * (1 - value) * (1 / images + 1 / source_images)
    spread = float(np.var(estimates, ddof=1)) if len(estimates) > 1 else 0.0
    deviation = (sampling + error**2 + spread) ** 0.5
    return max(value - REACH * deviation, 0.0), min(value + REACH * deviation, 1.0)


def _too_few(count: int, reference: SourceReference) -> str | None:
    source = len(reference.source.labels)
    if count < LEAST_IMAGES:
        return f'{count} target images are too few, it takes {LEAST_IMAGES}'
    if source < LEAST_IMAGES:
        return f'{source} labelled source images are too few, it takes {LEAST_IMAGES}'
    return None


def _outside(raw: Mapping[str, float], on_sets: list[dict[str, float]]) -> str | None:
    """Return why the target is too far from the meta-set; None where it isn't."""
    lowest = {name: min(one[name] for one in on_sets) for name in raw}
    below = [name for name in raw if raw[name] < lowest[name] - MARGIN]
    if len(below) * 2 <= len(raw):
        return None
    name = below[0]
    return (
        'the model is less sure of the target than of any degraded copy of the source '
        f'({name.upper()} {raw[name]:.0%} against {lowest[name]:.0%} at the lowest)'
    )


def _unreliable(error: float) -> str | None:
    """Return why this model's probabilities say nothing of its accuracy; None where they do."""
    if error <= MAX_ERROR:
        return None
    return (
        "this model's probabilities say too little: on degraded copies of the source, where the "
        f'accuracy is known, estimates are off by {100 * error:.0f} points on average'
    )
