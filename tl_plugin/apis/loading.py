"""Batches of images in order; one that can't be read is named and leaves no hole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tl_plugin.analysis.reading import UNREADABLE, read_image
from tl_plugin.reliability.bad_images import loading_error

_PREFETCH = 4


class Batch(NamedTuple):
    """Some images, in order.

    Attributes:
        indices: Of all images of the batch.
        read: Which of them could be read, (N,) bool.
        inputs: The images that could, (M, C, H, W); None where there is none.
        faults: Index -> why it could not be read.
    """

    indices: list[int]
    read: Tensor
    inputs: Tensor | None
    faults: dict[int, str]


class ImageFiles(Dataset):
    """Read and shape images by name; what can't be read comes as its fault, a text.

    Args:
        names: Paths.
        pipeline: From ``dict(img_path=...)`` to a packed image.
    """

    def __init__(self, names: Sequence[str], pipeline: Callable) -> None:
        self.names = names
        self.pipeline = pipeline

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        name = self.names[index]
        try:
            packed = self.pipeline(dict(img_path=name, sample_idx=index))
        except Exception:
            fault = self._fault(name)
            if fault is None:
                raise  # a mistake in a transform or its settings
            return index, fault
        return index, packed['inputs']

    def _fault(self, name: str) -> str | None:
        """Say why an image can't be read; None if it can, without the steps that follow."""
        reading = read_image(name)
        if reading.image is None:
            kind = reading.faults[0]
            return f'{kind.replace("_", " ")}: {reading.detail or UNREADABLE[kind]}'
        error = loading_error(dict(img_path=name), self.pipeline.transforms)
        if error is None:
            return None
        return f'foreign: {" ".join(f"{type(error).__name__}: {error}".split())}'


def image_loader(
    names: Sequence[str],
    pipeline: Callable,
    indices: Sequence[int],
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader:
    """Build a loader of :class:`Batch`.

    Args:
        names: Paths of all images.
        pipeline: See :class:`ImageFiles`.
        indices: Which images, in which order.
        batch_size: Images a batch.
        workers: Processes that read; 0 reads in this one.
        pin_memory: Whether batches go through pinned memory. Defaults to False.
    """
    return DataLoader(
        ImageFiles(names, pipeline),
        batch_size,
        sampler=indices,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        prefetch_factor=_PREFETCH if workers else None,
    )


def _collate(samples: list[tuple[int, Tensor | str]]) -> Batch:
    images = [image for _, image in samples if not isinstance(image, str)]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(
            'the test pipeline leaves images of several shapes, '
            f'{" and ".join(map(str, sorted(shapes)[:2]))}: end it in one size (ResizeEdge and '
            'CenterCrop), or predict them one at a time, --batch-size 1'
        )
    return Batch(
        [index for index, _ in samples],
        torch.tensor([not isinstance(image, str) for _, image in samples]),
        torch.stack(images) if images else None,
        {index: image for index, image in samples if isinstance(image, str)},
    )
