"""Measure on labelled source images how often a model is right when it is so sure, and keep it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.datasets.quality_matching import match_quality
from tl_plugin.evaluation.calibration import (
    FEWEST,
    Calibration,
    calibration_path,
    fit_calibration,
    outputs_path,
)
from tl_plugin.evaluation.feature_reference import COMPONENTS, fit_reference
from tl_plugin.evaluation.source_reference import SourceReference, as_npz, source_reference
from tl_plugin.functional import density_ratio, fit_temperature
from tl_plugin.reliability.bad_images import Replaced, read_or_replace
from tl_plugin.reliability.files import write_json, write_whole
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.protocol import TARGET

from .adapt import adapt_to
from .classifier import Classifier, load_classifier
from .image_list import list_images
from .loading import image_loader
from .predict import batch_size_of, configured, workers_of
from .settings import Settings

#: Images of each domain that quality is matched by.
MATCHED = 48
#: Images of each domain that a run is calibrated on when a ladder ends.
RUN_IMAGES = 500
#: No image of the source counts for more than so many.
MOST_WEIGHT = 20.0
BATCH_SIZE = 32
#: Unreadable images in a row that end a calibration.
_TRIES = 20


class Labelled(NamedTuple):
    """What a model gives for labelled images.

    Attributes:
        logits: (N, K).
        features: (N, D), or None.
        labels: (N,).
    """

    logits: Tensor
    features: Tensor | None
    labels: Tensor


@dataclass(frozen=True)
class Calibrated:
    """A calibration and where it was written.

    Args:
        calibration: The calibration.
        path: The file.
        notes: What else the reader should know.
    """

    calibration: Calibration
    path: Path
    notes: tuple[str, ...]


def calibrate(
    config: str | Path | Config,
    checkpoint: str | Path,
    target: str | Path | Sequence[str | Path] | None = None,
    max_images: int = 3000,
    strategy: Sequence[str] = (),
    out: str | Path | None = None,
    seed: int = 0,
) -> Calibrated:
    """Fit a temperature and the thresholds of a checkpoint, and write them beside it.

    Without a target, on the source's validation images (``val_dataloader``). With unlabelled images
    of a target, the temperature is that of the validation images and copies degraded in all ways
    together, which calibrated best on targets of eight pairs of domains; precision and coverage are
    measured on validation images degraded until their quality is that of the target, and weighted
    by how much denser the target lies at each one's features.

    The outputs for the degraded copies are kept, too (``NAME.outputs.npz``):
    :func:`~tl_plugin.apis.predict` reads the expected accuracy off them.

    Args:
        config: Of the model, see :func:`tl_plugin.apis.predict`.
        checkpoint: Its weights.
        target: Images without labels, see :func:`tl_plugin.apis.list_images`. Defaults to None.
        max_images: Of the source, and of the target; evenly spread. Defaults to 3000.
        strategy: Strategies that adapt the model to the target before: 'adabn'. Defaults to none.
        out: Defaults to None: ``NAME.calibration.json`` beside the checkpoint, where
            :func:`~tl_plugin.apis.predict` finds it.
        seed: Of everything random. Defaults to 0.

    Raises:
        ValueError: If there are fewer than 30 labelled validation images, or a strategy is to adapt
            to no target.
    """
    if strategy and target is None:
        raise ValueError(
            f'--strategy {" ".join(strategy)} adapts to a target: give --target IMAGES'
        )
    classifier = load_classifier(configured(config, strategy), checkpoint)
    notes: list[str] = []
    images = _source_images(classifier, max_images)
    if target is not None:
        names = list_images(target)
        notes += names.notes
        loading = batch_size_of(classifier.cfg, Settings()), workers_of(classifier.cfg, Settings())
        if strategy:
            notes.append(adapt_to(classifier, names, *loading, seed))
    plain = _outputs(classifier, images, 'Source')
    outputs, why = _degraded_in_all_ways(classifier, images)
    notes.append(why)
    if target is None:
        calibration = _fit(classifier, plain, "the source's validation images", strategy)
    else:
        features, few = _target(classifier, names, loading, max_images)
        found, degraded = _degraded(classifier, images, few, plain, seed)
        weights, weighed = _weights(found.features, features)
        notes += [degraded, weighed]
        reference = None
        if plain.features is not None:
            reference = fit_reference(plain.features.numpy(), plain.labels.numpy())
        calibration = _fit(
            classifier,
            found,
            "the source's validation images"
            + ('' if found is plain else ", degraded until their quality is the target's"),
            strategy,
            weights=weights,
            temperature=None if outputs is None else _temperature(outputs),
            reference=reference,
        )
    path = Path(out) if out else calibration_path(classifier.checkpoint)
    write_json(path, calibration.to_json())
    kept = outputs_path(path)
    if outputs is None:
        kept.unlink(missing_ok=True)
    else:
        arrays = outputs.arrays()
        # Of the source alone no estimate needs features, which would make most of the file.
        arrays['source.features'] = arrays['source.features'][:, :0]
        write_whole(kept, as_npz(arrays))
    return Calibrated(calibration, path, tuple(filter(None, notes)))


def calibrate_run(config: str, checkpoint: str, target: Sequence[str]) -> str:
    """Calibrate a run that has ended, on some hundred images of each domain.

    Args:
        config: Of the run.
        checkpoint: Its model.
        target: Files of unlabelled target images; none, and the source's count as they are.

    Returns:
        What was found, in a sentence.
    """
    images = target[:: max(len(target) // RUN_IMAGES, 1)]
    one = calibrate(config, checkpoint, images or None, RUN_IMAGES).calibration
    return (
        f'Calibrated, for tools/predict.py and tools/export.py: temperature {one.temperature:.2f}, '
        f'expected calibration error {one.error_before:.1%} before and {one.error_after:.1%} after '
        f'on {one.images} images ({one.fitted_on}).'
    )


def _fit(
    classifier: Classifier, found: Labelled, fitted_on: str, strategy: Sequence[str], **known: Any
) -> Calibration:
    return fit_calibration(
        found.logits,
        found.labels,
        found.features,
        **known,
        fitted_on=fitted_on,
        classes=[classifier.name(label) for label in range(found.logits.shape[1])],
        checkpoint=classifier.weights,
        strategy=list(strategy),
    )


def _degraded_in_all_ways(
    classifier: Classifier, images: SourceImages
) -> tuple[SourceReference | None, str]:
    """Return outputs for degraded copies, or None and why there are none."""
    if not hasattr(getattr(classifier.model, 'head', None), 'pre_logits'):
        return None, "Expected accuracy is not kept: the model has no head of mmpretrain's."
    try:
        with progress('Degraded in all ways', 1) as advance:
            found = source_reference(classifier.model, images.loader(), TARGET)
            advance(1)
    except ValueError as error:
        return None, f'Expected accuracy is not kept: {error}.'
    return found, ''


def _temperature(outputs: SourceReference) -> float:
    parts = [outputs.source, *outputs.degraded.values()]
    return fit_temperature(
        torch.cat([part.log_probabilities for part in parts]),
        torch.cat([part.labels for part in parts]),
    )


class SourceImages(Dataset):
    """Labelled validation images as the pipeline gives them, with the labels of the model.

    An image that can't be read is replaced by another one.

    Args:
        dataset: A data set of mmpretrain.
        indices: Which of its images.
        labels: Label of the data set -> label of the model; None where they are the same.
    """

    def __init__(self, dataset: Any, indices: list[int], labels: list[int] | None = None) -> None:
        self.dataset, self.indices, self.labels = dataset, indices, labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        packed = read_or_replace(self.dataset, self.indices[index], _TRIES)
        packed = packed.sample if isinstance(packed, Replaced) else packed
        label = packed['data_samples'].get('gt_label')
        if self.labels and label is not None and label.numel() == 1 and int(label) >= 0:
            packed['data_samples'].set_gt_label(self.labels[int(label)])
        return packed

    def some(self, count: int) -> SourceImages:
        """Return some of the images, evenly spread."""
        step = max(len(self) // count, 1)
        return SourceImages(self.dataset, self.indices[::step][:count], self.labels)

    def loader(self) -> DataLoader:
        """Return a loader of them, as mmengine's default gives batches."""
        return DataLoader(self, BATCH_SIZE, collate_fn=pseudo_collate)


def _source_images(classifier: Classifier, max_images: int) -> SourceImages:
    cfg = classifier.cfg
    loader = cfg.get('val_dataloader')
    if not loader:
        raise ValueError(
            "a calibration needs the source's validation images, with labels: this config has no "
            'val_dataloader'
        )
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        dataset = build_named_dataset(loader.dataset)
    count = min(max_images, len(dataset))
    indices = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    labels = _labels_of_model(dataset, classifier.classes)
    return SourceImages(dataset, indices, labels)


def _labels_of_model(dataset: Any, classes: Sequence[str]) -> list[int] | None:
    """Return the model's label of each class of a data set; None where nothing has a name."""
    own = list(map(str, (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()))
    if not own or not classes:
        return None
    unknown = [name for name in own if name not in classes]
    if unknown:
        raise ValueError(
            f'val_dataloader has the classes {short_list(own)}, the checkpoint '
            f'{short_list(classes)}: it does not know {short_list(unknown)}'
        )
    return [classes.index(name) for name in own]


def _outputs(
    classifier: Classifier, images: SourceImages, what: str, degrade: DegradeQuality | None = None
) -> Labelled:
    device = next(classifier.model.parameters()).device
    logits, features, labels, number = [], [], [], 0
    with progress(what, len(images)) as advance:
        for found in images.loader():
            batch, known = _labelled(found)
            if degrade is not None:
                batch = [_degrade(image, degrade, number + i) for i, image in enumerate(batch)]
            number += len(batch)
            if not batch:
                continue
            outputs = classifier(torch.stack(batch).to(device))
            logits.append(outputs.logits.cpu())
            labels += known
            if outputs.features is not None:
                features.append(outputs.features.cpu())
            advance(len(found['inputs']))
    if len(labels) < FEWEST:
        raise ValueError(
            f'a calibration needs {FEWEST} labelled validation images or more, val_dataloader '
            f'gives {len(labels)}'
        )
    return Labelled(
        torch.cat(logits), torch.cat(features) if features else None, torch.tensor(labels)
    )


def _labelled(found: dict) -> tuple[list[Tensor], list[int]]:
    """Return the images of a batch that have a label, and their labels."""
    labels = [sample.get('gt_label') for sample in found['data_samples']]
    known = [
        place
        for place, label in enumerate(labels)
        if label is not None and label.numel() == 1 and int(label) >= 0
    ]
    return [found['inputs'][place] for place in known], [int(labels[place]) for place in known]


def _target(
    classifier: Classifier, names: Sequence[str], loading: tuple[int, int], max_images: int
) -> tuple[Tensor | None, list[np.ndarray]]:
    """Return features of target images, and some of the images."""
    count = min(max_images, len(names))
    indices = np.linspace(0, len(names) - 1, count).round().astype(int).tolist()
    device = next(classifier.model.parameters()).device
    features, images = [], []
    # From all over the target: its folders may differ.
    step = max(count // MATCHED, 1)
    with progress('Target', count) as advance:
        for batch in image_loader(names, classifier.pipeline(), indices, *loading):
            advance(len(batch.indices))
            if batch.inputs is None:
                continue
            outputs = classifier(batch.inputs.to(device))
            if outputs.features is not None:
                features.append(outputs.features.cpu())
            images += [_picture(image) for image in batch.inputs[:: min(step, len(batch.inputs))]]
    return torch.cat(features) if features else None, images[:: max(len(images) // MATCHED, 1)]


def _degraded(
    classifier: Classifier,
    images: SourceImages,
    target: list[np.ndarray],
    plain: Labelled,
    seed: int,
) -> tuple[Labelled, str]:
    """Return outputs for images degraded to the target's quality, and what was done."""
    source = [_picture(packed['inputs']) for packed in _each(images.some(MATCHED))]
    if any(image.dtype != np.uint8 for image in (*source, *target)):
        return plain, 'The pipeline gives no images of 8 bits: their quality was not matched.'
    if min(len(source), len(target)) < 8:
        return plain, 'The target has fewer than 8 readable images: quality was not matched.'
    match = match_quality(source, target)
    if not match.corruptions:
        return plain, "No degradation brings the source's images closer to the target's quality."
    degrade = DegradeQuality(corruptions=match.corruptions, seed=seed)
    found = _outputs(classifier, images, 'Degraded source', degrade)
    names = ', '.join(match.corruptions)
    return found, f"The target's quality is that of the source's images degraded by {names}."


def _each(images: SourceImages) -> Iterator[dict]:
    return (images[index] for index in range(len(images)))


def _weights(source: Tensor | None, target: Tensor | None) -> tuple[Tensor | None, str]:
    """Weigh source images by the density of the target, where the domains overlap."""
    if source is None or target is None or min(len(source), len(target)) < FEWEST:
        return None, 'Images are not weighted: too few, or without features.'
    centre = torch.cat([source, target]).mean(0)
    joint = torch.cat([source, target]) - centre
    count = min(COMPONENTS, len(source) // 8, len(target) // 8)
    directions = torch.pca_lowrank(joint, q=max(count, 1), center=False)[2]
    parts = (joint @ directions).split([len(source), len(target)])
    weights = density_ratio(*parts).clamp(max=MOST_WEIGHT)
    effective = float(weights.sum() ** 2 / weights.square().sum())
    if not effective >= FEWEST:
        return None, (
            f'Images are not weighted: the domains hardly overlap, {effective:.0f} source images '
            'would decide alone. Precision and coverage may not hold on the target.'
        )
    return weights, (
        f"Images are weighted by the target's density, and count as {effective:.0f} of "
        f'{len(source)}.'
    )


def _picture(image: Tensor) -> np.ndarray:
    """Return an image of the pipeline as the quality statistics take it, in RGB."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.shape[2] == 3 else pixels


def _degrade(image: Tensor, degrade: DegradeQuality, index: int) -> Tensor:
    pixels = degrade(dict(img=_picture(image), sample_idx=index))['img']
    if pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
