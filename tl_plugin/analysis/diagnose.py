"""From two domains to findings: scan, compare, recommend."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mmengine.config import Config

from tl_plugin.intake.backbone_choice import ModelChoice, choose_model
from tl_plugin.intake.config_writer import dataset_config, test_pipeline, write_config
from tl_plugin.intake.images import DomainImages, ImageItem
from tl_plugin.intake.prepared import PreparedData, match_classes, prepare_data
from tl_plugin.ladder.default_rungs import DEFAULT_RUNGS
from tl_plugin.ladder.rung import SOURCE_AND_TARGET
from tl_plugin.reporting.progress import progress

from .class_gap import classifier_findings
from .domain_gap import domain_gap, reduce_features
from .duplicates import find_duplicates
from .embedding import embed
from .findings import Findings, copies_found, domain_findings, missing_classes, unreadable_names
from .quality_gap import LABELS, explained_by_quality, quality_gap, quality_table
from .reading import FAULTS
from .recommendation import recommend
from .scan import ImageRecord, check_imagehash, scan

#: Images of a domain whose features are computed.
FEATURE_IMAGES = 1500
WORST = 6
_FALLBACK = ('blur', 'noise', 'contrast', 'blockiness')


@dataclass(frozen=True)
class Settings:
    """How to diagnose.

    Args:
        folder: Where the config and its lists go.
        backbone: See ``backbone_choice.choose_model``; None computes no features.
        checkpoint: Its weights.
        image_size: Side of the images; None takes the model's own.
        processes: That read images; None takes all cores.
        feature_images: Images of a domain whose features are computed.
        seed: Of all that is drawn.
    """

    folder: Path
    backbone: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    processes: int | None = None
    feature_images: int = FEATURE_IMAGES
    seed: int = 0


@dataclass(frozen=True)
class Scanned:
    """A domain and what the scan found."""

    images: DomainImages
    records: list[ImageRecord]

    def usable(self) -> list[tuple[ImageItem, ImageRecord]]:
        """The readable images."""
        return [pair for pair in zip(self.images.items, self.records) if pair[1].readable]


def diagnose(
    source: DomainImages,
    target: DomainImages,
    settings: Settings,
    target_labels: DomainImages | int | None = None,
) -> Findings:
    """Find out how two domains differ and what to do about it.

    Args:
        source: The labelled domain.
        target: The field domain.
        settings: How.
        target_labels: Which target labels may be trained on, see
            :func:`tl_plugin.intake.prepared.prepare_data`.

    Returns:
        The findings. With a backbone, ``settings.folder`` has a config to train with.

    Raises:
        ValueError: If no image of a domain can be read, the backbone is unknown, or the domains
            can't be prepared for training, see :func:`tl_plugin.intake.prepared.prepare_data`.
        ModuleNotFoundError: If ImageHash isn't installed.
    """
    check_imagehash()
    target = _match(source, target, must_fit=settings.backbone is not None)
    domains = [
        _scan(name, images, settings) for name, images in (('source', source), ('target', target))
    ]
    for name, domain in zip(('source', 'target'), domains):
        _check_readable(name, domain)
    items = [item for domain in domains for item in domain.images.items]
    names = [n for n, d in zip(('source', 'target'), domains) for _ in d.images.items]
    groups = find_duplicates(items, names, [r for domain in domains for r in domain.records])
    sides = [domain_findings(domain.images, domain.records) for domain in domains]
    found = Findings(
        source=sides[0],
        target=sides[1],
        missing_classes=missing_classes(*sides),
        copies=copies_found(groups),
        quality=quality_gap(*([r.quality for _, r in d.usable()] for d in domains)),
        notes=(*source.notes, *target.notes),
        made_with=_made_with(settings),
    )
    few, config = 0, None
    if settings.backbone:
        leave_out = set().union(*(unreadable_names(d.images, d.records) for d in domains))
        leave_out |= {name for d in domains for name in _not_for_training(d)}
        data = prepare_data(
            source, target, target_labels, leave_out, [g.names for g in groups], settings.seed
        )
        choice = choose_model(settings.backbone, len(data.classes), settings.checkpoint)
        config = write_config(data, choice, settings.folder, settings.image_size)
        few = len(data.few)
        found = _with_features(found, domains, data, choice, config, settings)
    found = replace(found, worst=tuple(_worst(found, domains)))
    advice = recommend(found, few, None if config is None else str(config))
    if config is not None:
        _add_rungs(config, advice.strategies)
    return replace(found, recommendation=advice)


def _match(source: DomainImages, target: DomainImages, must_fit: bool) -> DomainImages:
    """Compare the classes; where nothing is to be trained, what doesn't fit is but a note."""
    if not source.labelled:
        return target
    try:
        target, found = match_classes(source, target)
    except ValueError as error:
        if must_fit:
            raise
        found = [f'Training will be refused: {error}.']
    return replace(target, notes=(*target.notes, *found))


def _check_readable(name: str, domain: Scanned) -> None:
    """Refuse a domain of which nothing can be read: nothing can be said of it."""
    if domain.usable():
        return
    faults = Counter(record.faults[0] for record in domain.records)
    counted = ', '.join(f'{count} {kind.replace("_", " ")}' for kind, count in faults.items())
    raise ValueError(
        f'none of the {len(domain.records)} files of the {name} {domain.images.origin} can be '
        f'read as an image: {counted}; the first is {domain.images.items[0].name!r}, which '
        f'{FAULTS[domain.records[0].faults[0]]}'
    )


def _add_rungs(config: Path, strategies: Mapping[str, str]) -> None:
    """Let the ladder try what was recommended, also where it has no such rung of its own."""
    tried = {name for rung in DEFAULT_RUNGS for name in rung.strategies}
    missing = {name: words for name, words in strategies.items() if name not in tried}
    if not missing:
        return
    cfg = Config.fromfile(config)
    # All that don't stand on a rung are for unlabelled target images beside the source.
    rungs = {
        name: dict(strategies=[name], data=SOURCE_AND_TARGET, start='source_only', about=words)
        for name, words in missing.items()
    }
    cfg.merge_from_dict(dict(ladder=dict(rungs=rungs)))
    cfg.dump(config)


def _scan(name: str, images: DomainImages, settings: Settings) -> Scanned:
    with progress(f'Reading the {name}', len(images.items)) as advance:
        return Scanned(images, scan(images.items, settings.processes, advance))


def _not_for_training(domain: Scanned) -> list[str]:
    """Images that the reader of training doesn't read, or that no list can hold."""
    return [
        item.name
        for item, record in domain.usable()
        if 'foreign' in record.faults or ('odd_name' in record.faults and item.place is None)
    ]


def _with_features(
    found: Findings,
    domains: Sequence[Scanned],
    data: PreparedData,
    choice: ModelChoice,
    config: Path,
    settings: Settings,
) -> Findings:
    from .features import build_model, extract_features

    model = build_model(Config.fromfile(config))
    rng = np.random.default_rng(settings.seed)
    rows, chosen = [], []
    for name in ('source', 'target'):
        images: DomainImages = getattr(data, name)
        picked = _sample(images.items, settings.feature_images, rng)
        content = [
            dataset_config(
                images,
                part,
                data.classes,
                test_pipeline(choice, settings.image_size),
                settings.folder / 'lists' / f'{name}_looked_at.txt',
                labels=False,
            )
            for part in _by_data_set(picked)
        ]
        with progress(f'Features of the {name}', len(picked)) as advance:
            rows.append(
                np.concatenate([extract_features(model, c, advance=advance) for c in content])
            )
        chosen.append([item for part in _by_data_set(picked) for item in part])
    source, target, explained = reduce_features(*rows)
    labels = [[item.label for item in items] for items in chosen]
    first, second, points, method = embed(source, target, settings.seed)
    shown = [labels[0][i] for i in first] + [labels[1][i] for i in second]
    quality = found.quality
    if quality is not None:
        table, names = _table(chosen, domains)
        faults = [names.index(item.name) for item in quality.faults() if item.name in names]
        quality = replace(
            quality,
            explained=explained_by_quality(table, source, target),
            explained_by_faults=explained_by_quality(table[:, faults], source, target),
        )
    return replace(
        found,
        quality=quality,
        gap=domain_gap(source, target, explained, settings.seed),
        classifier=classifier_findings(source, labels[0], target, labels[1], settings.seed),
        embedding=dict(
            method=method,
            x=points[:, 0],
            y=points[:, 1],
            domain=['source'] * len(first) + ['target'] * len(second),
            label=shown,
        ),
        backbone=settings.backbone or '',
        notes=tuple(Config.fromfile(config).ladder.get('notes', ())),
    )


def _by_data_set(items: Sequence[ImageItem]) -> list[list[ImageItem]]:
    """Images that one data set can give together, in its order."""
    parts: dict = {}
    for item in items:
        parts.setdefault(item.place and item.place[0], []).append(item)
    return [
        sorted(part, key=lambda item: item.place[1]) if part[0].place else part
        for part in parts.values()
    ]


def _sample(items: Sequence[ImageItem], count: int, rng: np.random.Generator) -> list[ImageItem]:
    return [items[i] for i in np.sort(rng.permutation(len(items))[:count])]


def _table(chosen: Sequence[Sequence[ImageItem]], domains: Sequence[Scanned]):
    known = [{item.name: record.quality for item, record in domain.usable()} for domain in domains]
    qualities = [known[side][item.name] for side, items in enumerate(chosen) for item in items]
    return quality_table(qualities)


def _worst(found: Findings, domains: Sequence[Scanned]) -> list[dict]:
    """The images with most of the faults that the target has more of, or of the usual ones."""
    statistics = list(_FALLBACK)
    if found.quality is not None:
        worse = [i.name for i in found.quality.statistics if i.worse and i.effect.value]
        statistics = list(dict.fromkeys([*worse[:4], *_FALLBACK]))[:4]
    worst = []
    for statistic in statistics:
        sign = -1 if LABELS[statistic].worse == 'high' else 1
        for name, domain in zip(('source', 'target'), domains):
            pairs = [pair for pair in domain.usable() if statistic in pair[1].quality]
            pairs.sort(key=lambda pair: sign * pair[1].quality[statistic])
            worst += [
                dict(
                    domain=name,
                    statistic=statistic,
                    name=item.name,
                    label=item.label,
                    value=record.quality[statistic],
                )
                for item, record in pairs[:WORST]
            ]
    return worst


def _made_with(settings: Settings) -> dict:
    packages = ('tl_plugin', 'mmpretrain', 'torch', 'scikit-learn', 'opencv-python', 'pillow')
    known = {'python': platform.python_version()}
    for name in packages:
        try:
            known[name] = version('mmpretrain-tl-plugin' if name == 'tl_plugin' else name)
        except ModuleNotFoundError:  # PackageNotFoundError: not installed as a package
            continue
    return dict(
        date=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        versions=known,
        seed=settings.seed,
        checkpoint=settings.checkpoint or '',
    )
