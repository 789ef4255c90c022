"""A network's features of a domain's images, and of degraded copies of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from tl_plugin.evaluation.source_reference import degradations
from tl_plugin.intake.config_writer import dataset_config
from tl_plugin.intake.images import DomainImages, ImageItem
from tl_plugin.reporting.progress import progress

from .features import extract_degraded_features, extract_features
from .reference import pattern

#: Source images of which degraded copies are made.
MAX_DEGRADED = 60


def compute_features(
    model: torch.nn.Module,
    images: DomainImages,
    items: Sequence[ImageItem],
    classes: Sequence[str],
    pipeline: list,
    listed: Path,
    what: str,
) -> tuple[np.ndarray, list[ImageItem]]:
    """Compute the features of some images of a domain.

    Args:
        model: See :func:`~tl_plugin.analysis.features.extract_features`.
        images: The domain.
        items: Some of its images.
        classes: Names of all classes, in the model's order.
        pipeline: Of images read from files.
        listed: A file that is written: the list of the images.
        what: Their name for the progress bar.

    Returns:
        ``(N, D)``, and the images in this order.
    """
    parts = _by_data_set(items)
    with progress(what, len(items)) as advance:
        features = []
        for part in parts:
            content = dataset_config(images, part, classes, pipeline, listed, labels=False)
            features.append(extract_features(model, content, advance=advance))
    return np.concatenate(features), [item for part in parts for item in part]


def probe_features(model: torch.nn.Module, pipeline: list, folder: Path) -> np.ndarray:
    """Compute a network's features of a fixed pattern, (D,), by which it is known again.

    Args:
        model: See :func:`~tl_plugin.analysis.features.extract_features`.
        pipeline: Of images read from files.
        folder: Where the pattern is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'probe.png'
    cv2.imwrite(str(path), pattern())
    images = DomainImages(str(path), (ImageItem(str(path)),))
    listed = folder / 'probe.txt'
    return compute_features(model, images, images.items, (), pipeline, listed, 'Probe')[0][0]


def degraded_features(
    model: torch.nn.Module,
    images: DomainImages,
    items: Sequence[ImageItem],
    pipeline: list,
    listed: Path,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute features of degraded copies of some source images.

    Args:
        model: Computes them.
        images: The source.
        items: The source images whose features are known.
        pipeline: Of images read from files.
        listed: A file that is written: the list of the images.
        seed: Of the corruptions.

    Returns:
        Which of the items they are copies of, ``(M,)``, and ``(degradations, M, D)``.
    """
    picked = np.linspace(0, len(items) - 1, min(MAX_DEGRADED, len(items))).round().astype(int)
    # The items are in the order of their data sets, and so are those that are picked of them.
    parts = _by_data_set([items[index] for index in picked])
    contents = (
        dataset_config(images, part, images.classes, pipeline, listed, labels=False)
        for part in parts
    )
    total = len(picked) * len(degradations())
    with progress('Features of degraded source images', total) as advance:
        return picked, extract_degraded_features(model, contents, seed, advance)


def _by_data_set(items: Sequence[ImageItem]) -> list[list[ImageItem]]:
    """Divide images into those that one data set can give together, in its order."""
    parts: dict = {}
    for item in items:
        parts.setdefault(item.place and item.place[0], []).append(item)
    return [
        sorted(part, key=lambda item: item.place[1]) if part[0].place else part
        for part in parts.values()
    ]
