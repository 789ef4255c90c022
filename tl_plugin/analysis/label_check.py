"""Judge the labels of a domain: two judges, or a source model, and copies that contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tl_plugin.evaluation.intervals import Estimate
from tl_plugin.intake.images import ImageItem

from .confident_learning import class_thresholds, confident_classes, noise_estimate
from .duplicates import DuplicateGroup
from .label_judges import FOLDS, Neighbourhood, ask_neighbours, compact_features, out_of_fold
from .label_records import ClassPair, LabelFinding, LabelReport

#: Images a class, in the median, below which an estimate would say more about the judge.
HANDFUL = 20
#: Robust standard deviations from the median from which on a distance is an outlier (Iglewicz and
#: Hoaglin, "How to Detect and Handle Outliers", 1993).
FAR = 3.5
#: Share of doubted labels below which nothing is said of the judges' own errors.
LITTLE = 0.05
#: How sure the source model has to be of another class where it is the only judge.
SURE = 0.9


@dataclass(frozen=True)
class Opinion:
    """Probabilities of the classes of some images, by a judge that did not learn from them.

    Args:
        judge: Who, in words.
        classes: Names of the K classes.
        probabilities: ``(N, K)``; a row of zeros is an image that isn't judged.
    """

    judge: str
    classes: tuple[str, ...]
    probabilities: np.ndarray


def check_labels(
    origin: str,
    items: Sequence[ImageItem],
    features: np.ndarray,
    copies: Sequence[DuplicateGroup] = (),
    source_model: Opinion | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> LabelReport:
    """Judge the labels of a domain.

    Args:
        origin: What the images were read from.
        items: Labelled images.
        features: ``(N, D)``, of a network that did not learn from these labels.
        copies: Groups of copies, of other splits and domains too.
        source_model: What a model that was trained elsewhere says of the images; the judge where
            there is only a handful of images a class. Defaults to None.
        seed: Of folds and resamples. Defaults to 0.
        advance: Called with 1 after each linear head.

    Raises:
        ValueError: If there are no labelled images of two classes.
    """
    names = np.array([item.label for item in items])
    classes, labels, counts = np.unique(names, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f'{origin} has labels of {len(classes)} classes: to judge them takes two or more'
        )
    groups = _group_numbers(items, copies)
    conflicts = _conflicts(copies)
    handful = float(np.median(counts)) < HANDFUL
    if handful and source_model is not None:
        return _by_source_model(origin, items, source_model, conflicts)
    known = counts >= FOLDS
    judged = known[labels]
    notes = []
    if handful:
        notes.append(
            f'There are {np.median(counts):.0f} images a class (median), too few to say how many '
            'labels are wrong. Take the list as a hint where to look, or give a source model '
            '(CONFIG CHECKPOINT) as the judge.'
        )
    if not known.all():
        left = ', '.join(classes[~known])
        notes.append(f'Classes of fewer than {FOLDS} images are judged by copies alone: {left}.')
    if known.sum() < 2:
        unsaid = [LabelFinding(i.name, i.label, i.label, 0.0) for i in items]
        found = _with_conflicts(unsaid, conflicts)
        return LabelReport(origin, 'copies alone', len(items), None, (), tuple(found), tuple(notes))
    numbers = np.cumsum(known)[labels[judged]] - 1
    classes, space = classes[known], compact_features(features[judged], seed)
    head = out_of_fold(space, numbers, groups[judged], seed, advance)
    near = ask_neighbours(space, numbers, groups[judged])
    chosen = [item for item, one in zip(items, judged) if one]
    found = _findings(chosen, classes, numbers, head, near)
    found += [
        LabelFinding(i.name, i.label, i.label, 0.0) for i, one in zip(items, judged) if not one
    ]
    found = _with_conflicts(found, conflicts)
    estimate = noise_estimate((head + near.votes) / 2, numbers, seed)
    doubted = sum(one.score > 0.5 for one in found) / len(chosen)
    if doubted >= LITTLE and estimate.rate.value < doubted / 2:
        notes.append(
            f'The judges doubt {doubted:.1%} of the labels, and are sure of another class in '
            f'{estimate.rate.value:.1%}: most of their doubts are errors of their own, on images '
            'that this network knows badly. Look at an image before you change its label or leave '
            'it out.'
        )
    report = LabelReport(
        origin=origin,
        judge=f'linear heads on frozen features, {FOLDS} folds, and the nearest images',
        images=len(chosen),
        rate=None if handful else estimate.rate,
        pairs=() if handful else _pairs(estimate.pairs, classes, found),
        findings=tuple(found),
        notes=tuple(notes),
        agreement=float((head.argmax(axis=1) == near.votes.argmax(axis=1)).mean()),
    )
    if report.rate is None or report.trusted:
        return report
    doubt = (
        f'The judges name different classes for {1 - report.agreement:.0%} of the images, so that '
        'the share of wrong labels says more about them than about the labels: compare the images '
        'by a network that tells the classes apart (--backbone).'
    )
    return replace(report, notes=(*report.notes, doubt))


def _findings(
    items: Sequence[ImageItem],
    classes: np.ndarray,
    labels: np.ndarray,
    head: np.ndarray,
    near: Neighbourhood,
) -> list[LabelFinding]:
    """Put both judges together; their mean ranks better than either."""
    mean, rows = (head + near.votes) / 2, np.arange(len(labels))
    others = mean.copy()
    others[rows, labels] = -1
    likely, own = others.argmax(axis=1), mean[rows, labels]
    scores = (1 + others[rows, likely] - own) / 2
    confident = confident_classes(mean, class_thresholds(mean, labels))
    agree = (head.argmax(axis=1) == near.votes.argmax(axis=1)) & (head.argmax(axis=1) == likely)
    wrong = agree & (confident == likely) & (scores > 0.5)
    far = _outliers(near.distance)
    found = []
    for row, item in enumerate(items):
        kind = 'wrong' if wrong[row] else 'ambiguous' if scores[row] > 0.5 else ''
        kind = 'outlier' if far[row] else kind
        # An image whose label stands most likely is of that class.
        best = str(classes[likely[row]]) if scores[row] > 0.5 else item.label
        reason = _reason(
            item.label, str(classes[likely[row]]), head[row], near, row, labels, likely
        )
        found.append(
            LabelFinding(
                item.name,
                item.label,
                best,
                round(float(scores[row]), 4),
                kind,
                reason if kind else '',
                round(float(own[row]), 4),
            )
        )
    return found


def _reason(
    given: str,
    other: str,
    head: np.ndarray,
    near: Neighbourhood,
    row: int,
    labels: np.ndarray,
    likely: np.ndarray,
) -> str:
    return (
        f'probability {head[likely[row]]:.2f} of {other} and {head[labels[row]]:.2f} of {given}; '
        f'of the nearest images {near.votes[row, likely[row]]:.0%} are {other} and '
        f'{near.votes[row, labels[row]]:.0%} {given}'
    )


def _outliers(distance: np.ndarray) -> np.ndarray:
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    return distance > middle + FAR * max(spread, 1e-3)


def _group_numbers(items: Sequence[ImageItem], copies: Sequence[DuplicateGroup]) -> np.ndarray:
    leaders = {name: group.names[0] for group in copies for name in group.names}
    names = [leaders.get(item.name, item.name) for item in items]
    return np.unique(names, return_inverse=True)[1]


def _conflicts(copies: Sequence[DuplicateGroup]) -> dict[str, str]:
    """Return the name of each image that has a copy with another label -> which, in words."""
    found = {}
    for group in copies:
        members = list(zip(group.names, group.domains, group.splits, group.labels))
        for name, _, _, label in members:
            others = [
                f'{other} ({" ".join(filter(None, (domain, split)))}) is labelled {its}'
                for other, domain, split, its in members
                if other != name and None not in (its, label) and its != label
            ]
            if others:
                kind = 'an exact' if group.exact else 'a near'
                found[name] = f'{kind} copy, {others[0]}'
    return found


def _with_conflicts(
    findings: Sequence[LabelFinding], conflicts: dict[str, str]
) -> list[LabelFinding]:
    """Mark copies with contradicting labels, and sort, the most suspicious first."""
    found = []
    for one in findings:
        if one.file in conflicts:
            reason = '; '.join(filter(None, (conflicts[one.file], one.reason)))
            one = replace(one, kind='copies', reason=reason)
        found.append(one)
    return sorted(found, key=lambda one: -one.score)


def _pairs(
    pairs: dict[tuple[int, int], Estimate],
    classes: np.ndarray,
    findings: Sequence[LabelFinding],
) -> tuple[ClassPair, ...]:
    listed: dict[tuple[str, str], int] = {}
    for one in findings:
        if one.kind in ('wrong', 'copies'):
            listed[one.given, one.likely] = listed.get((one.given, one.likely), 0) + 1
    found = []
    for (given, true), share in pairs.items():
        names = str(classes[given]), str(classes[true])
        found.append(ClassPair(*names, share, listed.get(names, 0)))
    return tuple(sorted(found, key=lambda pair: -pair.share.value))


def _by_source_model(
    origin: str, items: Sequence[ImageItem], model: Opinion, conflicts: dict[str, str]
) -> LabelReport:
    numbers = {name: number for number, name in enumerate(model.classes)}
    found, unknown = [], 0
    for item, row in zip(items, model.probabilities):
        if item.label not in numbers or not row.any():
            unknown += 1
            found.append(LabelFinding(item.name, item.label, item.label, 0.0))
            continue
        own, best = row[numbers[item.label]], int(row.argmax())
        others = np.delete(row, numbers[item.label]).max()
        other, wrong = model.classes[best], best != numbers[item.label]
        kind = ('wrong' if row[best] >= SURE else 'ambiguous') if wrong else ''
        reason = f'the source model gives {row[best]:.2f} to {other} and {own:.2f} to {item.label}'
        score = round(float((1 + others - own) / 2), 4)
        found.append(
            LabelFinding(
                item.name,
                item.label,
                other,
                score,
                kind,
                reason if kind else '',
                round(float(own), 4),
            )
        )
    found = _with_conflicts(found, conflicts)
    doubted = sum(bool(one.kind) for one in found)
    notes = [
        f'{len(items)} labelled images are too few to say how many labels are wrong. The judge is '
        f'the source model, which errs on the target by itself: it doubts {doubted} of '
        f'{len(items)}, and only a look at them tells who is wrong.'
    ]
    if unknown:
        notes.append(f"{unknown} images have a class that the source model doesn't know.")
    return LabelReport(origin, model.judge, len(items), None, (), tuple(found), tuple(notes))
