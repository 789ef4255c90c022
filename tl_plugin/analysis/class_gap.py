"""Which classes lie apart, how a source classifier does on the target, how classes shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tl_plugin.evaluation.expected_accuracy import ExpectedAccuracy, expected_accuracy
from tl_plugin.evaluation.intervals import Estimate, share_estimate
from tl_plugin.evaluation.source_reference import SourceReference, outputs_of
from tl_plugin.functional import black_box_shift

from .domain_gap import centre_distance

#: A predicted class counts as known from this probability on.
CONFIDENT = 0.9
FEWEST = 5


@dataclass(frozen=True)
class ClassGap:
    """The gap within one class.

    Args:
        name: The class.
        distance: Of the centres of both domains' images of it, over the mean distance of a source
            image from its class centre; 0 is none.
        source_images: Of it that were compared.
        target_images: Likewise.
    """

    name: str
    distance: Estimate
    source_images: int
    target_images: int


@dataclass(frozen=True)
class ClassifierFindings:
    """Accuracy and class frequencies by a linear classifier of the source's features.

    Args:
        source_accuracy: Cross-validated, None without at least two classes of five images.
        target_accuracy: On target images whose label is known; None without labels.
        expected_target_accuracy: As it is estimated without labels, or why it isn't; None where
            there was nothing to estimate it by.
        confident: Share of target images that it is at least 90% sure of.
        labels_from: ``'labels'`` or ``'confident predictions'``: where target classes are from.
        class_gaps: One for each class with enough images in both domains, the largest first.
        source_shares: Class -> share of the source's images.
        target_shares: Class -> share of the target's labels; None without labels.
        estimated_shares: Class -> share of the target, estimated without its labels.
        label_shift: Total variation distance between source and target shares (of the labels, or
            else the estimate), 0 to 1.
        left_out: Class -> its source images, too few for it to be among the classes above.
    """

    source_accuracy: Estimate | None
    target_accuracy: Estimate | None
    confident: float
    labels_from: str
    class_gaps: tuple[ClassGap, ...]
    source_shares: dict[str, float]
    target_shares: dict[str, float] | None
    estimated_shares: dict[str, float]
    label_shift: float
    left_out: dict[str, int]
    expected_target_accuracy: ExpectedAccuracy | None = None


@dataclass(frozen=True)
class DegradedSource:
    """Features of degraded copies of some source images.

    Args:
        rows: Which source images they are copies of, (M,).
        features: Degradation -> ``(M, D)``, of ``reduce_features``.
    """

    rows: np.ndarray
    features: dict[str, np.ndarray]


def classifier_findings(
    source: np.ndarray,
    source_labels: Sequence[str | None],
    target: np.ndarray,
    target_labels: Sequence[str | None],
    seed: int = 0,
    degraded: DegradedSource | None = None,
) -> ClassifierFindings | None:
    """Compare the domains class by class.

    Args:
        source: ``(N, D)``, of ``reduce_features``.
        source_labels: N names, None where unknown.
        target: ``(M, D)``.
        target_labels: M names, None where unknown.
        seed: Of folds and resamples.
        degraded: Copies of source images, to read the expected accuracy off. Defaults to None,
            which expects none.

    Returns:
        None if the source has fewer than two classes of five images or more.
    """
    from sklearn.model_selection import cross_val_predict

    rng = np.random.default_rng(seed)
    names = np.array([label or '' for label in source_labels])
    found, counts = np.unique(names[names != ''], return_counts=True)
    classes = found[counts >= FEWEST]
    if len(classes) < 2:
        return None
    chosen = np.isin(names, classes)
    if degraded is not None:
        degraded = _among(degraded, chosen)
    source, names = source[chosen], names[chosen]
    classifier = linear_classifier()
    held_out = cross_val_predict(classifier, source, names, cv=FEWEST, method='predict_proba')
    reference = _reference(classifier, source, names, held_out, degraded)
    probabilities = classifier.fit(source, names).predict_proba(target)
    known = np.array([label if label in classes else '' for label in target_labels])
    predicted = classes[probabilities.argmax(1)]
    sure = probabilities.max(1) >= CONFIDENT
    labelled = bool((known != '').any())
    if not labelled:
        known = np.where(sure, predicted, '')
    shares = _shares(names, classes)
    target_shares = _shares(known[known != ''], classes) if labelled else None
    estimated = estimate_shares(held_out, names, probabilities)
    estimated = dict(zip(classes.tolist(), estimated.tolist()))
    right = classes[held_out.argmax(1)] == names
    right_on_target = (predicted == known)[known != '']
    compared = target_shares or estimated
    return ClassifierFindings(
        source_accuracy=share_estimate(right.sum(), len(right)),
        target_accuracy=share_estimate(right_on_target.sum(), len(right_on_target))
        if labelled
        else None,
        confident=float(sure.mean()),
        labels_from='labels' if labelled else 'confident predictions',
        class_gaps=_class_gaps(source, names, target, known, rng),
        source_shares=shares,
        target_shares=target_shares,
        estimated_shares=estimated,
        label_shift=sum(abs(shares[name] - compared[name]) for name in shares) / 2,
        left_out={str(n): int(count) for n, count in zip(found, counts) if count < FEWEST},
        expected_target_accuracy=reference
        and expected_accuracy(reference, torch.from_numpy(probabilities)),
    )


def linear_classifier() -> Any:
    """Return the classifier that learns from the source's features."""
    from sklearn.linear_model import LogisticRegression

    # Not scaled by the source's deviations: directions in which the source hardly varies and the
    # target does would be blown up, and with them the classifier's errors.
    return LogisticRegression(C=10, max_iter=2000)


def _among(degraded: DegradedSource, chosen: np.ndarray) -> DegradedSource:
    """Keep the copies of chosen source images, numbered among these."""
    kept = chosen[degraded.rows]
    rows = (np.cumsum(chosen) - 1)[degraded.rows[kept]]
    return DegradedSource(rows, {name: found[kept] for name, found in degraded.features.items()})


def _reference(
    classifier: Any,
    source: np.ndarray,
    names: np.ndarray,
    held_out: np.ndarray,
    degraded: DegradedSource | None,
) -> SourceReference | None:
    """Return what the classifier outputs on source images that it did not learn from.

    On degraded copies that is a classifier of all other source images.
    """
    numbers = np.unique(names, return_inverse=True)[1]
    others = np.ones(len(names), dtype=bool)
    if degraded is not None:
        others[degraded.rows] = False
    if (
        degraded is None
        or not len(degraded.rows)
        or len(np.unique(names[others])) < held_out.shape[1]
    ):
        return None
    classifier.fit(source[others], names[others])
    return SourceReference(
        outputs_of(held_out, numbers),
        {
            name: outputs_of(classifier.predict_proba(features), numbers[degraded.rows])
            for name, features in degraded.features.items()
        },
    )


def _shares(labels: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    return {str(name): float((labels == name).mean()) for name in classes}


def estimate_shares(
    source_probabilities: np.ndarray, source_labels: np.ndarray, target_probabilities: np.ndarray
) -> np.ndarray:
    """Estimate how frequent each class is in the target, without its labels.

    Black-box shift estimation, which doesn't ask for calibrated probabilities. Right where classes
    look alike in both domains and only their frequencies differ; with a gap of appearance it errs
    as the classifier does.

    Args:
        source_probabilities: ``(N, K)``, of images that the classifier didn't learn from.
        source_labels: N names; in sorted order they are the K classes.
        target_probabilities: ``(M, K)``.

    Returns:
        ``(K,)``, adds up to 1.
    """
    numbers = np.unique(source_labels, return_inverse=True)[1]
    inputs = source_probabilities, numbers, target_probabilities
    return black_box_shift(*map(torch.from_numpy, inputs)).numpy()


def _class_gaps(
    source: np.ndarray,
    names: np.ndarray,
    target: np.ndarray,
    known: np.ndarray,
    rng: np.random.Generator,
) -> tuple[ClassGap, ...]:
    gaps = []
    for name in np.unique(names):
        parts = source[names == name], target[known == name]
        if min(map(len, parts)) < FEWEST:
            continue
        spread = float(np.linalg.norm(parts[0] - parts[0].mean(0), axis=1).mean()) or 1.0
        distance = Estimate(*(end / spread for end in centre_distance(*parts, rng)))
        gaps.append(ClassGap(str(name), distance, *map(len, parts)))
    return tuple(sorted(gaps, key=lambda gap: -gap.distance.value))
