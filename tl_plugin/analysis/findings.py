"""What a diagnosis found, as plain values: JSON, the terminal and the page all show these."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tl_plugin.intake.images import DomainImages

from .class_gap import ClassifierFindings
from .domain_gap import DomainGap
from .duplicates import DuplicateGroup
from .estimates import Estimate
from .quality_gap import LABELS, QualityGap
from .reading import FAULTS, UNREADABLE
from .scan import ImageRecord


@dataclass(frozen=True)
class FaultyFile:
    """A file that can't be read.

    Args:
        name: The file.
        fault: Its kind.
        detail: What the decoder said.
    """

    name: str
    fault: str
    detail: str


@dataclass(frozen=True)
class DomainFindings:
    """One domain's images.

    Args:
        origin: What was looked at.
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
class Recommendation:
    """What to do.

    Args:
        headline: In one sentence.
        strategies: Overlays to try, the first one first, with what each does.
        reasons: Why, in sentences.
        repairs: What to repair in the data before.
        commands: What to type.
    """

    headline: str
    strategies: dict[str, str]
    reasons: tuple[str, ...]
    repairs: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """Everything that a diagnosis found.

    Args:
        source: The source's images.
        target: The target's.
        missing_classes: Domain -> classes that only the other one has.
        copies: Copies of images.
        quality: Which image faults tell the domains apart; None for too few images.
        gap: The gap in the features; None where none were computed.
        classifier: Class by class; None likewise.
        embedding: ``x``, ``y``, ``domain`` and ``label`` of some images, in two dimensions.
        worst: Images with the worst quality: ``domain``, ``statistic``, ``name``, ``value``.
        recommendation: What to do.
        backbone: Of the features, '' for none.
        notes: What else the reader should know.
        made_with: Date, versions, seed, commands.
    """

    source: DomainFindings
    target: DomainFindings
    missing_classes: dict[str, tuple[str, ...]]
    copies: Copies
    quality: QualityGap | None = None
    gap: DomainGap | None = None
    classifier: ClassifierFindings | None = None
    embedding: dict = field(default_factory=dict)
    worst: tuple[dict, ...] = ()
    recommendation: Recommendation | None = None
    backbone: str = ''
    notes: tuple[str, ...] = ()
    made_with: dict = field(default_factory=dict)


def domain_findings(domain: DomainImages, records: Sequence[ImageRecord]) -> DomainFindings:
    """Sum up what the scan of a domain found."""
    pairs = list(zip(domain.items, records))
    readable = [(item, record) for item, record in pairs if record.readable]
    classes = Counter(dict.fromkeys(domain.classes, 0))
    classes.update(item.label for item, _ in readable if item.label is not None)
    by_class = defaultdict(list)
    odd = defaultdict(list)
    for item, record in readable:
        by_class[item.label].append(record.quality)
        for kind in record.faults:
            odd[kind].append(item.name)
    faults = Counter(kind for record in records for kind in record.faults)
    return DomainFindings(
        origin=domain.origin,
        images=len(pairs),
        readable=len(readable),
        unreadable=tuple(
            FaultyFile(item.name, record.faults[0], record.detail)
            for item, record in pairs
            if not record.readable
        ),
        faults={kind: faults[kind] for kind in FAULTS if faults[kind]},
        meanings={kind: FAULTS[kind] for kind in FAULTS if faults[kind]},
        odd={kind: tuple(odd[kind]) for kind in FAULTS if odd[kind]},
        classes=dict(sorted(classes.items())),
        unlabelled=sum(item.label is None for item, _ in readable),
        splits=dict(Counter(item.split or 'undivided' for item in domain.items)),
        imbalance=max(classes.values()) / max(min(classes.values()), 1) if classes else None,
        quality=_medians([record.quality for _, record in readable]),
        quality_by_class={
            name: _medians(found) for name, found in sorted(by_class.items(), key=str) if name
        },
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


def missing_classes(source: DomainFindings, target: DomainFindings) -> dict:
    """Classes by name that a domain lacks, where it has labels at all."""
    present = [
        {name for name, count in domain.classes.items() if count} for domain in (source, target)
    ]
    if not all(present):
        return {'source': (), 'target': ()}
    return {
        'source': tuple(sorted(present[1] - present[0])),
        'target': tuple(sorted(present[0] - present[1])),
    }


def unreadable_names(domain: DomainImages, records: Sequence[ImageRecord]) -> set[str]:
    """Names of the images to leave out of training."""
    return {
        item.name
        for item, record in zip(domain.items, records)
        if set(record.faults) & set(UNREADABLE)
    }


def plain(value: object) -> object:
    """Turn findings into what JSON can hold: dicts, lists, text and numbers, NaN as null."""
    if isinstance(value, Estimate):
        return {key: plain(end) for key, end in value._asdict().items()}
    if dataclasses.is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        # Six digits say all there is to say, and keep the file small.
        return float(f'{value:.6g}') if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value


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
