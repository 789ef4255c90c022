"""The labels in a diagnosis: how many are wrong in each domain, and what they do to the gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tl_plugin.evaluation.intervals import Estimate, percentile_estimate, resample_counts
from tl_plugin.intake.images import ImageItem

from .class_gap import FEWEST, linear_classifier
from .duplicates import DuplicateGroup
from .label_check import Opinion, check_labels
from .label_records import LabelReport

#: Gap of accuracy, in [0, 1], below which no share of it is worth naming.
LEAST_GAP = 0.02


@dataclass(frozen=True)
class LabelsInGap:
    """What the labels that look wrong do to the measured gap of accuracy.

    The gap is that of :class:`~tl_plugin.analysis.class_gap.ClassifierFindings`: accuracy of a
    linear classifier of the source on source images that it didn't learn from, less that on target
    images, both by the labels as given. Without the labels that are listed as wrong means that
    these images are neither learned from nor measured on. Which ones these are is an estimate, and
    images that are hard rather than wrongly labelled may be among them: what is left is a bit
    easier than the whole.

    Args:
        left_out: Images that are left out, of the source and of the target.
        as_given: The gap, in [-1, 1].
        without: The gap without them.
        explained: Share of the gap that is gone without them, with the interval for what other
            images of the same kind would give. Negative where wrong labels hide a part of the gap,
            as they do in the source, whose measured accuracy they lower too. None where the gap
            isn't surely above :data:`LEAST_GAP`.
    """

    left_out: tuple[int, int]
    as_given: Estimate
    without: Estimate
    explained: Estimate | None


@dataclass(frozen=True)
class LabelFindings:
    """The labels of both domains.

    Args:
        source: What looks wrong in the source; None without labels of two classes.
        target: Likewise in the target.
        in_gap: What these labels do to the gap; None without a gap by labels.
    """

    source: LabelReport | None
    target: LabelReport | None
    in_gap: LabelsInGap | None


class Labelled(NamedTuple):
    """Images of a domain with their features.

    Args:
        origin: What they were read from.
        items: N images, with or without labels.
        features: ``(N, D)``, of the network.
        reduced: ``(N, C)``, of :func:`~tl_plugin.analysis.features.reduce_features`.
    """

    origin: str
    items: Sequence[ImageItem]
    features: np.ndarray
    reduced: np.ndarray


def label_findings(
    source: Labelled,
    target: Labelled,
    copies: Sequence[DuplicateGroup],
    source_head: Opinion | None,
    seed: int = 0,
) -> LabelFindings:
    """Judge the labels of both domains by features that are known already.

    Args:
        source: The labelled domain.
        target: The field domain.
        copies: Groups of copies within and across them.
        source_head: What a classifier of the source makes of the target's images, the judge of a
            handful of target labels. None where the source has too few labels for one.
        seed: Of folds and resamples. Defaults to 0.
    """
    found = [
        _report(source, copies, None, seed),
        _report(target, copies, source_head, seed),
    ]
    return LabelFindings(*found, _in_gap((source, target), found, seed))


def _report(
    domain: Labelled, copies: Sequence[DuplicateGroup], judge: Opinion | None, seed: int
) -> LabelReport | None:
    rows = [row for row, item in enumerate(domain.items) if item.label is not None]
    items = [domain.items[row] for row in rows]
    if len({item.label for item in items}) < 2:
        return None
    if judge is not None:
        judge = replace(judge, probabilities=judge.probabilities[rows])
    return check_labels(domain.origin, items, domain.features[rows], copies, judge, seed)


def _in_gap(
    domains: tuple[Labelled, Labelled], reports: Sequence[LabelReport | None], seed: int
) -> LabelsInGap | None:
    if None in reports:
        return None
    sides = []
    for domain, report in zip(domains, reports):
        # A source model that doubts target labels would be measured by what it says itself.
        judged = report.agreement is not None
        doubted = {one.file for one in report.flagged('wrong')} if judged else set()
        labels = np.array([item.label or '' for item in domain.items])
        sides.append((domain.reduced, labels, [item.name in doubted for item in domain.items]))
    left_out = tuple(sum(doubted) for _, _, doubted in sides)
    given = _right(sides, left_out=False)
    without = _right(sides, left_out=True) if any(left_out) else given
    if given is None or without is None:
        return None
    before, after = (_gaps(right, seed) for right in (given, without))
    explained = None
    if np.quantile(before, 0.025) > LEAST_GAP:
        explained = percentile_estimate(1 - after / np.maximum(before, 1e-9))
    return LabelsInGap(left_out, *map(percentile_estimate, (before, after)), explained)


def _right(sides: Sequence[tuple], left_out: bool) -> list[np.ndarray] | None:
    """Return which images of each domain the source's classifier gets right; nan: not measured."""
    from sklearn.model_selection import cross_val_predict

    (source, labels, _), (target, target_labels, _) = sides
    kept = [~np.array(doubted) if left_out else np.ones(len(x), bool) for x, _, doubted in sides]
    names, counts = np.unique(labels[kept[0] & (labels != '')], return_counts=True)
    classes = names[counts >= FEWEST]
    learned = kept[0] & np.isin(labels, classes)
    measured = kept[1] & np.isin(target_labels, classes)
    if len(classes) < 2 or not measured.any():
        return None
    found = [np.full(len(labels), np.nan), np.full(len(target_labels), np.nan)]
    x, y = source[learned], labels[learned]
    found[0][learned] = cross_val_predict(linear_classifier(), x, y, cv=FEWEST) == y
    predicted = linear_classifier().fit(x, y).predict(target[measured])
    found[1][measured] = predicted == target_labels[measured]
    return found


def _gaps(right: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Return the gap, and that of each resample of the images, the same ones for a seed."""
    accuracies = []
    for side, values in enumerate(right):
        resamples = resample_counts(len(values), np.random.default_rng((seed, side)))
        counts = np.concatenate([np.ones((1, len(values))), resamples])[:, np.isfinite(values)]
        sums = counts @ values[np.isfinite(values)]
        accuracies.append(sums / np.maximum(counts.sum(axis=1), 1))
    return accuracies[0] - accuracies[1]
