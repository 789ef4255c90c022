"""Images that a calibration is made of, and what the model gives for them.

Labelled images of the source, as they are and degraded to the target's quality, and how much each
of them counts for the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.datasets.quality_matching import match_quality
from tl_plugin.evaluation.calibration import FEWEST
from tl_plugin.evaluation.feature_reference import COMPONENTS
from tl_plugin.functional import density_ratio
from tl_plugin.reliability.bad_images import Replaced, read_or_replace
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.messages import short_list

from .classifier import Classifier
from .loading import image_loader

#: Images of each domain that quality is matched by.
MATCHED = 48
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


def source_images(classifier: Classifier, max_images: int) -> SourceImages:
    """Return validation images of the model's config, evenly spread.

    Raises:
        ValueError: If there are none, or the model doesn't know one of their classes.
    """
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


def labelled_outputs(
    classifier: Classifier, images: SourceImages, what: str, degrade: DegradeQuality | None = None
) -> Labelled:
    """Run a model on those of the images that have a label.

    Args:
        classifier: The model.
        images: The images.
        what: Their name on the terminal.
        degrade: Degrades them before. Defaults to None, as they are.

    Raises:
        ValueError: If fewer than 30 have a label.
    """
    device = next(classifier.model.parameters()).device
    logits, features, labels, number = [], [], [], 0
    with progress(what, len(images)) as advance:
        for found in images.loader():
            batch, known = _with_labels(found)
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


def _with_labels(found: dict) -> tuple[list[Tensor], list[int]]:
    """Return the images of a batch that have a label, and their labels."""
    labels = [sample.get('gt_label') for sample in found['data_samples']]
    known = [
        place
        for place, label in enumerate(labels)
        if label is not None and label.numel() == 1 and int(label) >= 0
    ]
    return [found['inputs'][place] for place in known], [int(labels[place]) for place in known]


def target_images(
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


def degraded_outputs(
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
    found = labelled_outputs(classifier, images, 'Degraded source', degrade)
    names = ', '.join(match.corruptions)
    return found, f"The target's quality is that of the source's images degraded by {names}."


def _each(images: SourceImages) -> Iterator[dict]:
    return (images[index] for index in range(len(images)))


def target_weights(source: Tensor | None, target: Tensor | None) -> tuple[Tensor | None, str]:
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
