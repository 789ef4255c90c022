"""What a check of labels looks at: images, copies, features, and a source model's opinion."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.intake.backbone_choice import check_backbone, choose_model
from tl_plugin.intake.config_writer import dataset_config, pipelines
from tl_plugin.intake.degraded_copy import colour_thumbnails
from tl_plugin.intake.images import DomainImages, ImageItem
from tl_plugin.launch.configs import load_config
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.options import type_name

from .duplicates import DuplicateGroup, find_duplicates
from .features import build_model, extract_features, extract_outputs
from .label_check import Opinion, check_labels
from .label_records import LabelReport, join_reports
from .scan import scan

#: Images that are judged together; more would take time and memory by their square.
TOGETHER = 10_000


def check_domain(
    domain: DomainImages,
    folder: Path,
    backbone: str | None = None,
    checkpoint: str | None = None,
    config: str | None = None,
    beside: DomainImages | None = None,
    image_size: int | None = None,
    processes: int | None = None,
    seed: int = 0,
) -> LabelReport:
    """Judge the labels of a domain, from its files to the ranked list.

    Args:
        domain: The images.
        folder: Where lists of files go.
        backbone: See :func:`tl_plugin.intake.backbone_choice.choose_model`.
        checkpoint: Weights of the backbone, or of ``config``.
        config: Config of a trained model, in place of a backbone.
        beside: Another domain, whose copies with other labels are found too. Defaults to None.
        image_size: Side of the images; None takes the model's own.
        processes: That read images; None takes all cores.
        seed: Of everything random. Defaults to 0.

    Returns:
        The report.

    Raises:
        ValueError: If there are no readable labelled images of two classes.
    """
    check_backbone(backbone, checkpoint)
    domains = {'': domain} if beside is None else {'': domain, 'the other domain': beside}
    everything = [(item, name) for name, images in domains.items() for item in images.items]
    with progress('reading', len(everything)) as advance:
        records = scan([item for item, _ in everything], processes, advance)
    copies = find_duplicates(*zip(*everything), records)
    usable = [
        (item, record)
        for item, record in zip(domain.items, records)
        if record.readable and 'foreign' not in record.faults and item.label is not None
    ]
    notes = _left_out(domain, len(usable))
    items = [item for item, _ in usable]
    if not items:
        raise ValueError(
            f'{domain.origin} has no readable image with a label: give class folders, or an '
            'annotation file with a label column'
        )
    opinion = None
    if config is not None:
        items, features, opinion = of_trained_model(domain, items, config, checkpoint, folder)
    elif backbone is not None:
        items, features = features_of_backbone(
            domain, items, backbone, checkpoint, folder, image_size
        )
    else:
        notes.append(
            'No network was given: images are compared by thumbnails of 16 pixels a side, which '
            'tells digits apart but hardly photographs. Give a --backbone.'
        )
        features = colour_thumbnails(items).reshape(len(items), -1)
    report = check_parts(domain.origin, items, features, copies, opinion, seed)
    return replace(report, notes=(*domain.notes, *notes, *report.notes))


def check_parts(
    origin: str,
    items: Sequence[ImageItem],
    features: np.ndarray,
    copies: Sequence[DuplicateGroup] = (),
    source_model: Opinion | None = None,
    seed: int = 0,
) -> LabelReport:
    """Judge labels as :func:`~tl_plugin.analysis.label_check.check_labels` does, many in parts.

    Time and memory then grow with the number of images and not with its square.

    Args:
        origin: What the images were read from.
        items: Labelled images.
        features: ``(N, D)``.
        copies: Groups of copies.
        source_model: The judge of a handful.
        seed: Of the parts, folds and resamples. Defaults to 0.
    """
    if len(items) <= TOGETHER:
        return check_labels(origin, items, features, copies, source_model, seed)
    order = np.random.default_rng(seed).permutation(len(items))
    reports = []
    for rows in np.array_split(order, -(-len(items) // TOGETHER)):
        part = [items[row] for row in rows]
        reports.append(check_labels(origin, part, features[rows], copies, None, seed))
    return join_reports(reports)


def _left_out(domain: DomainImages, usable: int) -> list[str]:
    bare = sum(item.label is None for item in domain.items)
    broken = len(domain.items) - usable - bare
    parts = {'have no label': bare, 'cannot be read': max(broken, 0)}
    return [f'{count} images {what} and are left out.' for what, count in parts.items() if count]


def features_of_backbone(
    domain: DomainImages,
    items: Sequence[ImageItem],
    backbone: str,
    checkpoint: str | None,
    folder: Path,
    image_size: int | None,
) -> tuple[list[ImageItem], np.ndarray]:
    """Compute the features of images with a network that knows nothing of their labels.

    Args:
        domain: The domain.
        items: Some of its images.
        backbone: See :func:`tl_plugin.intake.backbone_choice.choose_model`.
        checkpoint: Its weights.
        folder: Where lists of files go.
        image_size: Side of the images; None takes the model's own.

    Returns:
        The images, and their features ``(N, D)`` in the same order.
    """
    choice = choose_model(backbone, max(len(domain.classes), 2), checkpoint)
    cfg = Config(dict(model=choice.model, data_preprocessor=choice.data_preprocessor))
    _, pipeline = pipelines(choice, image_size)
    model = build_model(cfg)
    parts = _data_sets(domain, items, pipeline, folder)
    with progress('features', len(items)) as advance:
        found = [extract_features(model, content, advance=advance) for _, content in parts]
    return [item for part, _ in parts for item in part], np.concatenate(found)


def of_trained_model(
    domain: DomainImages,
    items: Sequence[ImageItem],
    config: str | Path,
    checkpoint: str | None,
    folder: Path,
) -> tuple[list[ImageItem], np.ndarray, Opinion]:
    """Compute the features of images with a trained model, and what it makes of them.

    Args:
        domain: The domain.
        items: Some of its images.
        config: Of the model.
        checkpoint: Its weights.
        folder: Where lists of files go.

    Returns:
        The images, their features ``(N, D)`` and the model's opinion, in the same order.

    Raises:
        ValueError: If the config tests nothing, or the model's classes have no names.
    """
    cfg = load_config(config)
    cfg.load_from = checkpoint
    tested = _tested(cfg)
    items, features, logits = outputs_of_config(domain, items, cfg, folder)
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    classes = _class_names(tested[0], checkpoint, probabilities.shape[1])
    opinion = Opinion(f'the model of {config}, {checkpoint}', classes, probabilities)
    return items, features, opinion


def outputs_of_config(
    domain: DomainImages, items: Sequence[ImageItem], cfg: Config, folder: Path
) -> tuple[list[ImageItem], np.ndarray, np.ndarray]:
    """Compute features of images, and scores of classes, with a config's model as it starts.

    Args:
        domain: The domain.
        items: Some of its images.
        cfg: The config, which prepares the images as it does those of a test.
        folder: Where lists of files go.

    Returns:
        The images, their features ``(N, D)`` and scores ``(N, K)``, in the same order.

    Raises:
        ValueError: If the config tests nothing.
    """
    parts = _data_sets(domain, items, copy.deepcopy(_tested(cfg)[0]['pipeline']), folder)
    model = build_model(cfg)
    with progress('features', len(items)) as advance:
        found = [extract_outputs(model, content, advance=advance) for _, content in parts]
    features, scores = (np.concatenate(rows) for rows in zip(*found))
    return [item for part, _ in parts for item in part], features, scores


def _tested(cfg: Config) -> list[dict]:
    """Return the data sets that a config tests or validates on, one of which has a pipeline."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    tested = inner_configs(loader.get('dataset'))
    if not tested or tested[0].get('pipeline') is None:
        raise ValueError(
            f'{cfg.filename or "the config"} has no test_dataloader whose pipeline could prepare '
            'images'
        )
    return tested


def _class_names(dataset: dict, checkpoint: str | None, count: int) -> tuple[str, ...]:
    meta = {}
    if checkpoint is not None:
        meta = CheckpointLoader.load_checkpoint(checkpoint, 'cpu', 'silent').get('meta') or {}
    names = (meta.get('dataset_meta') or {}).get('classes')
    if not names:
        from tl_plugin.datasets.bad_data import build_named_dataset

        with DefaultScope.overwrite_default_scope('mmpretrain'):
            names = (build_named_dataset(dataset).metainfo or {}).get('classes')
    if not names or len(names) != count:
        raise ValueError(
            f'the model has {count} classes, and neither its checkpoint nor its data set names '
            f'them ({names!r}): give a config whose test data set has metainfo=dict(classes=...)'
        )
    return tuple(names)


def _data_sets(
    domain: DomainImages, items: Sequence[ImageItem], pipeline: list, folder: Path
) -> list[tuple[list[ImageItem], dict]]:
    """Divide images into those that one data set gives, with the pipeline of a test."""
    parts: dict = {}
    for item in items:
        parts.setdefault(item.place and item.place[0], []).append(item)
    found = []
    for name, part in parts.items():
        whole = domain
        if name is not None:
            part = sorted(part, key=lambda item: item.place[1])
            changed = copy.deepcopy(domain.datasets[name])
            if part[0].pixels is None or type_name(pipeline[0]) != 'LoadImageFromFile':
                for inner in inner_configs(changed):
                    inner['pipeline'] = copy.deepcopy(pipeline)
            whole = replace(domain, datasets={**domain.datasets, name: changed})
        listed = folder / 'lists' / 'labels.txt'
        content = dataset_config(whole, part, domain.classes, pipeline, listed, labels=False)
        found.append((part, content))
    return found
