"""From two domains to findings: scan, compare, advise."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from mmengine.config import Config

from tl_plugin.evaluation.source_reference import degradations
from tl_plugin.intake.backbone_choice import ModelChoice, check_backbone, choose_model
from tl_plugin.intake.config_writer import pipelines, write_config
from tl_plugin.intake.images import DomainImages, ImageItem
from tl_plugin.intake.prepared import PreparedData, match_classes, prepare_data
from tl_plugin.ladder.rungs import DEFAULT_RUNGS, SOURCE_AND_TARGET
from tl_plugin.reporting.progress import progress

from .advice import advise
from .class_gap import DegradedSource, classifier_findings
from .domain_gap import domain_gap
from .duplicates import DuplicateGroup, find_duplicates
from .features import COMPONENTS, build_model, embed, reduce_features
from .findings import (
    Embedding,
    Findings,
    MadeWith,
    WorstImage,
    copies_found,
    domain_findings,
    missing_classes,
)
from .image_features import compute_features, degraded_features, probe_features
from .label_check import Opinion
from .label_findings import Labelled, label_findings
from .quality_gap import LABELS, explained_by_quality, quality_gap, quality_table
from .reading import FAULTS
from .reference import DriftReference, KnownFeatures, fit_features, thinned
from .scan import ImageRecord, scan

#: Images shown of each domain for each corruption, and those shown where few stand out.
NUM_WORST, USUAL_CORRUPTIONS = 6, ('blur', 'noise', 'contrast', 'blockiness')


@dataclass(frozen=True)
class Settings:
    """Settings of a diagnosis.

    Args:
        folder: Where the config and its lists go.
        backbone: See ``backbone_choice.choose_model``; None computes no features.
        checkpoint: Its weights.
        image_size: Side of the images; None takes the model's own.
        processes: That read images; None takes all cores.
        max_images: At most so many images of a domain have their features computed.
        seed: Of everything random.
    """

    folder: Path
    backbone: str | None = None
    checkpoint: str | None = None
    image_size: int | None = None
    processes: int | None = None
    max_images: int = 1500
    seed: int = 0


@dataclass(frozen=True)
class ScannedDomain:
    """A domain and what the scan found.

    Args:
        name: ``'source'`` or ``'target'``.
        images: The domain.
        records: One an image.
    """

    name: str
    images: DomainImages
    records: list[ImageRecord]

    def usable(self) -> list[tuple[ImageItem, ImageRecord]]:
        """Return the readable images."""
        return [pair for pair in zip(self.images.items, self.records) if pair[1].readable]

    def not_for_training(self) -> set[str]:
        """Name images that can't be read, by the reader of training either, or be listed."""
        return {
            item.name
            for item, record in zip(self.images.items, self.records)
            if not record.readable
            or 'foreign' in record.faults
            or ('odd_name' in record.faults and item.place is None)
        }


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
    """
    check_backbone(settings.backbone, settings.checkpoint)
    target = _match(source, target, must_fit=settings.backbone is not None)
    domains = [
        scan_domain(name, images, settings)
        for name, images in (('source', source), ('target', target))
    ]
    pairs = [(item, domain.name) for domain in domains for item in domain.images.items]
    groups = find_duplicates(*zip(*pairs), [r for domain in domains for r in domain.records])
    sides = [domain_findings(domain.images, domain.records) for domain in domains]
    found = Findings(
        source=sides[0],
        target=sides[1],
        missing_classes=missing_classes(*sides),
        copies=copies_found(groups),
        made_with=_made_with(settings),
        quality=quality_gap(*([r.quality for _, r in d.usable()] for d in domains)),
        reference=_reference(domains[1]),
        notes=(*source.notes, *target.notes),
    )
    few, config = 0, None
    if settings.backbone:
        leave_out = set().union(*(domain.not_for_training() for domain in domains))
        data = prepare_data(
            source, target, target_labels, leave_out, [g.names for g in groups], settings.seed
        )
        choice = choose_model(settings.backbone, len(data.classes), settings.checkpoint)
        config = write_config(data, choice, settings.folder, settings.image_size)
        few = len(data.few)
        found = _with_features(found, domains, data, choice, config, groups, settings)
    found = replace(found, worst=tuple(_worst(found, domains)))
    advice = advise(found, few, None if config is None else str(config))
    if config is not None:
        _add_rungs(config, advice.strategies)
    return replace(found, advice=advice)


def _match(source: DomainImages, target: DomainImages, must_fit: bool) -> DomainImages:
    """Compare the classes. Where nothing is to be trained, classes that don't fit are a note."""
    if not source.labelled:
        return target
    try:
        target, found = match_classes(source, target)
    except ValueError as error:
        if must_fit:
            raise
        found = [f'Training will be refused: {error}.']
    return replace(target, notes=(*target.notes, *found))


def _add_rungs(config: Path, strategies: Mapping[str, str]) -> None:
    """Add rungs for the strategies advised that the ladder has no rung for."""
    tried = {name for rung in DEFAULT_RUNGS for name in rung.strategies}
    missing = {name: words for name, words in strategies.items() if name not in tried}
    if not missing:
        return
    cfg = Config.fromfile(config)
    # The strategies without a rung all learn from the source and unlabelled target images.
    rungs = {
        name: dict(strategies=[name], data=SOURCE_AND_TARGET, start='source_only', about=words)
        for name, words in missing.items()
    }
    cfg.merge_from_dict(dict(ladder=dict(rungs=rungs)))
    cfg.dump(config)


def scan_domain(name: str, images: DomainImages, settings: Settings) -> ScannedDomain:
    """Read all images of a domain.

    Args:
        name: Of the domain, for the progress bar and messages.
        images: The domain.
        settings: Of them ``processes`` counts.

    Raises:
        ValueError: If none can be read.
    """
    with progress(f'Reading the {name}', len(images.items)) as advance:
        domain = ScannedDomain(name, images, scan(images.items, settings.processes, advance))
    if domain.usable():
        return domain
    faults = Counter(record.faults[0] for record in domain.records)
    counted = ', '.join(f'{count} {kind.replace("_", " ")}' for kind, count in faults.items())
    raise ValueError(
        f'none of the {len(domain.records)} files of the {name} {images.origin} can be '
        f'read as an image: {counted}; the first is {images.items[0].name!r}, which '
        f'{FAULTS[domain.records[0].faults[0]]}'
    )


def _reference(target: ScannedDomain) -> DriftReference:
    table, names = quality_table([record.quality for _, record in target.usable()])
    images = len(target.records)
    return DriftReference(images, images - len(table), tuple(names), thinned(table))


def _with_features(
    found: Findings,
    domains: Sequence[ScannedDomain],
    data: PreparedData,
    choice: ModelChoice,
    config: Path,
    groups: Sequence[DuplicateGroup],
    settings: Settings,
) -> Findings:
    cfg = Config.fromfile(config)
    model = build_model(cfg)
    rng = np.random.default_rng(settings.seed)
    rows, chosen = [], []
    _, pipeline = pipelines(choice, settings.image_size)
    folder = settings.folder / 'lists'
    # Each of the few labels counts, so that all of these images are looked at.
    few = {item.name for item in data.few}
    for name, images, wanted in (('source', data.source, ()), ('target', data.target, few)):
        picked = {*rng.permutation(len(images.items))[: settings.max_images].tolist()}
        features, items = compute_features(
            model,
            images,
            [i for number, i in enumerate(images.items) if number in picked or i.name in wanted],
            data.classes,
            pipeline,
            folder / f'{name}_features.txt',
            f'Features of the {name}',
        )
        rows.append(features)
        chosen.append(items)
    known = fit_features(
        rows[0],
        [item.label for item in chosen[0]],
        rows[1],
        probe_features(model, pipeline, folder),
        backbone=settings.backbone or '',
        checkpoint=settings.checkpoint or '',
        image_size=settings.image_size,
        own_pipelines=bool(data.target.datasets),
    )
    picked, copies = degraded_features(
        model, data.source, chosen[0], pipeline, folder / 'source_degraded.txt', settings.seed
    )
    source, target, explained, reduced = reduce_features(*rows, COMPONENTS, copies)
    labels = [[item.label for item in items] for items in chosen]
    first, second, points, method = embed(source, target, settings.seed)
    embedding = Embedding(
        method,
        *points.T,
        domain=['source'] * len(first) + ['target'] * len(second),
        label=[labels[0][i] for i in first] + [labels[1][i] for i in second],
    )
    quality = found.quality
    if quality is not None:
        scanned = [{item.name: record.quality for item, record in d.usable()} for d in domains]
        table, names = quality_table(
            [scanned[side][item.name] for side, items in enumerate(chosen) for item in items]
        )
        worse = [names.index(item.name) for item in quality.corruptions() if item.name in names]
        quality = replace(
            quality,
            explained=explained_by_quality(table, source, target),
            explained_by_corruptions=explained_by_quality(table[:, worse], source, target),
        )
    origins = found.source.origin, found.target.origin
    return replace(
        found,
        quality=quality,
        labels=label_findings(
            *map(Labelled, origins, chosen, rows, (source, target)),
            groups,
            _source_head(known, rows[1]),
            settings.seed,
        ),
        gap=domain_gap(source, target, explained, settings.seed),
        classifier=classifier_findings(
            source,
            labels[0],
            target,
            labels[1],
            settings.seed,
            DegradedSource(picked, dict(zip(degradations(), reduced))),
        ),
        embedding=embedding,
        backbone=settings.backbone or '',
        reference=replace(found.reference, features=known),
        notes=tuple(cfg.ladder.get('notes', ())),
    )


def _source_head(known: KnownFeatures, features: np.ndarray) -> Opinion | None:
    """Return what the classifier of the source makes of features of the target."""
    if not known.classes:
        return None
    judge = 'a linear classifier that learned from the source'
    return Opinion(judge, known.classes, known.probabilities(known.project(features)))


def _worst(found: Findings, domains: Sequence[ScannedDomain]) -> list[WorstImage]:
    """Pick the images with most of the corruptions that the target has more of, or usual ones."""
    worse: list[str] = []
    if found.quality is not None:
        worse = [i.name for i in found.quality.statistics if i.worse and i.effect.value]
    worst = []
    for statistic in list(dict.fromkeys([*worse[:4], *USUAL_CORRUPTIONS]))[:4]:
        sign = -1 if LABELS[statistic].worse == 'high' else 1
        for domain in domains:
            pairs = [pair for pair in domain.usable() if statistic in pair[1].quality]
            pairs.sort(key=lambda pair: sign * pair[1].quality[statistic])
            worst += [
                WorstImage(domain.name, statistic, item.name, item.label, record.quality[statistic])
                for item, record in pairs[:NUM_WORST]
            ]
    return worst


def _made_with(settings: Settings) -> MadeWith:
    packages = {'tl_plugin': 'mmpretrain-tl-plugin'}
    known = {'python': platform.python_version()}
    for name in ('tl_plugin', 'mmpretrain', 'torch', 'scikit-learn', 'opencv-python', 'pillow'):
        try:
            known[name] = version(packages.get(name, name))
        except PackageNotFoundError:  # not installed as a package
            continue
    date = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
    return MadeWith(date, known, settings.seed, settings.checkpoint or '')
