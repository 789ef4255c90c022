"""What a diagnosis found: JSON, the terminal and the page all show these records."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.evaluation.intervals import Estimate
from tl_plugin.intake.images import DomainImages

from .class_gap import ClassifierFindings
from .domain_gap import DomainGap
from .duplicates import DuplicateGroup
from .label_findings import LabelFindings
from .label_records import LabelReport
from .quality_gap import LABELS, QualityGap
from .reading import FAULTS
from .reference import DriftReference
from .scan import ImageRecord


@dataclass(frozen=True)
class FaultyFile:
    """A file that can't be read.

    Args:
        name: The file.
        fault: Its kind.
        detail: The decoder's error.
    """

    name: str
    fault: str
    detail: str


@dataclass(frozen=True)
class DomainFindings:
    """One domain's images.

    Args:
        origin: What was read.
        images: Files or images in all.
        readable: Of them.
        unreadable: The others, each by name.
        faults: Kind -> number of images, of all kinds that were found.
        meanings: Kind -> what it means.
        odd: Kind of oddity -> names of the images that have it.
        classes: Class -> number of readable images.
        unlabelled: Readable images without a label.
        splits: Split -> number of images.
        imbalance: Images of the largest class over those of the smallest; None without classes.
        quality: Statistic -> median, over all images.
        quality_by_class: Class -> statistic -> median.
    """

    origin: str
    images: int
    readable: int
    unreadable: tuple[FaultyFile, ...]
    faults: dict[str, int]
    meanings: dict[str, str]
    odd: dict[str, tuple[str, ...]]
    classes: dict[str, int]
    unlabelled: int
    splits: dict[str, int]
    imbalance: float | None
    quality: dict[str, float]
    quality_by_class: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Copies:
    """Copies of images in both domains.

    Args:
        exact: Groups with equal pixels.
        near: Groups that look alike.
        leaking: Groups with copies in several splits of a domain.
        across_domains: Groups with copies in both domains.
        contradicting: Groups whose copies have different labels.
        groups: The groups themselves, the leaking and contradicting first.
    """

    exact: int
    near: int
    leaking: int
    across_domains: int
    contradicting: int
    groups: tuple[DuplicateGroup, ...]


@dataclass(frozen=True)
class Advice:
    """What to do about the gap.

    Args:
        headline: In one sentence.
        strategies: Overlays to try, the first one first -> what each does.
        reasons: Why, in sentences.
        repairs: What to fix in the data before.
        commands: Shell commands to continue with.
        label_commands: Those that find all wrong labels, and train on them as a person corrected
            them; () where there are few.
    """

    headline: str
    strategies: dict[str, str]
    reasons: tuple[str, ...]
    repairs: tuple[str, ...]
    commands: tuple[str, ...]
    label_commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embedding:
    """Some images as points in two dimensions.

    Args:
        method: Name of the method.
        x: Place of each image.
        y: Likewise.
        domain: ``'source'`` or ``'target'`` for each image.
        label: The class of each image, None where it is unknown.
    """

    method: str
    x: np.ndarray
    y: np.ndarray
    domain: list[str]
    label: list[str | None]


@dataclass(frozen=True)
class WorstImage:
    """One of the images with the most of a corruption.

    Args:
        domain: ``'source'`` or ``'target'``.
        statistic: A key of :data:`~tl_plugin.analysis.quality_gap.LABELS`.
        name: The image.
        label: Its class, None if unknown.
        value: Of the statistic.
    """

    domain: str
    statistic: str
    name: str
    label: str | None
    value: float


@dataclass(frozen=True)
class MadeWith:
    """What a diagnosis was made with.

    Args:
        date: ISO 8601.
        versions: Package -> version.
        seed: Of everything random.
        checkpoint: Of the backbone, '' for its own weights.
    """

    date: str
    versions: dict[str, str]
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Findings:
    """Everything that a diagnosis found.

    Args:
        source: The source's images.
        target: The target's.
        missing_classes: Domain -> classes that only the other one has.
        copies: Copies of images.
        made_with: Date, versions, seed.
        quality: Which corruptions tell the domains apart; None for too few images.
        gap: The gap in the features; None where none were computed.
        classifier: Class by class; None likewise.
        labels: Those that look wrong, of the images whose features were compared; None likewise.
        embedding: Likewise.
        worst: Images with the worst quality.
        advice: What to do.
        backbone: Of the features, '' for none.
        reference: The target as it is now, to notice later when it drifts.
        notes: What else the reader should know.
    """

    source: DomainFindings
    target: DomainFindings
    missing_classes: dict[str, tuple[str, ...]]
    copies: Copies
    made_with: MadeWith
    quality: QualityGap | None = None
    gap: DomainGap | None = None
    classifier: ClassifierFindings | None = None
    labels: LabelFindings | None = None
    embedding: Embedding | None = None
    worst: tuple[WorstImage, ...] = ()
    advice: Advice | None = None
    backbone: str = ''
    reference: DriftReference | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Return what JSON can hold: dicts, lists, text and numbers, NaN as null."""
        return _plain(self)


def domain_findings(domain: DomainImages, records: Sequence[ImageRecord]) -> DomainFindings:
    """Summarize what the scan of a domain found."""
    readable, unreadable = [], []
    odd, by_class = defaultdict(list), defaultdict(list)
    for item, record in zip(domain.items, records):
        if not record.readable:
            unreadable.append(FaultyFile(item.name, record.faults[0], record.detail))
            continue
        readable.append(record.quality)
        by_class[item.label].append(record.quality)
        for kind in record.faults:
            odd[kind].append(item.name)
    unlabelled = len(by_class.pop(None, ()))
    classes = {name: len(by_class[name]) for name in sorted({*domain.classes, *by_class})}
    faults = Counter(kind for record in records for kind in record.faults)
    return DomainFindings(
        origin=domain.origin,
        images=len(domain.items),
        readable=len(readable),
        unreadable=tuple(unreadable),
        faults={kind: faults[kind] for kind in FAULTS if faults[kind]},
        meanings={kind: FAULTS[kind] for kind in FAULTS if faults[kind]},
        odd={kind: tuple(odd[kind]) for kind in FAULTS if odd[kind]},
        classes=classes,
        unlabelled=unlabelled,
        splits=dict(Counter(item.split or 'undivided' for item in domain.items)),
        imbalance=max(classes.values()) / max(min(classes.values()), 1) if classes else None,
        quality=_medians(readable),
        quality_by_class={name: _medians(by_class[name]) for name in classes if by_class[name]},
    )


def copies_found(groups: Sequence[DuplicateGroup], listed: int = 100) -> Copies:
    """Count and list groups of copies."""
    urgent = sorted(groups, key=lambda group: not (group.leaks or group.contradicts))
    return Copies(
        exact=sum(group.exact for group in groups),
        near=sum(not group.exact for group in groups),
        leaking=sum(group.leaks for group in groups),
        across_domains=sum(group.crosses_domains for group in groups),
        contradicting=sum(group.contradicts for group in groups),
        groups=tuple(urgent[:listed]),
    )


def missing_classes(source: DomainFindings, target: DomainFindings) -> dict[str, tuple[str, ...]]:
    """Return the classes that a domain lacks, where both have labels."""
    present = [
        {name for name, count in domain.classes.items() if count} for domain in (source, target)
    ]
    lacking = (present[1] - present[0], present[0] - present[1]) if all(present) else ((), ())
    return {name: tuple(sorted(found)) for name, found in zip(('source', 'target'), lacking)}


def _plain(value: object) -> object:
    if isinstance(value, Estimate):
        return {key: _plain(end) for key, end in value._asdict().items()}
    if isinstance(value, LabelReport):
        return _plain(value.to_json())
    if dataclasses.is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        # Six digits are more than the figures are exact to, and keep the file small.
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def printable(value: object) -> object:
    r"""Make plain values fit for a page and a terminal.

    A file's name may hold line breaks, a terminal's commands or bytes that are no text at all.

    >>> print(printable({'two\nlines': ['\x1b[2J', 'é', '\udcff', 1]})['two\\nlines'])
    ['\\x1b[2J', 'é', '\\udcff', 1]
    """
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, str) and not value.isprintable():
        return ''.join(
            char if char.isprintable() else char.encode('unicode_escape').decode() for char in value
        )
    return value


def _medians(qualities: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: float(np.median([quality[name] for quality in qualities if name in quality]))
        for name in LABELS
        if any(name in quality for quality in qualities)
    }
