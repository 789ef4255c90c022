"""MNIST-M, digits blended into patches of colour photographs, and grey digits in its shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmpretrain.datasets.categories import MNIST_CATEGORITES
from mmpretrain.registry import DATASETS, TRANSFORMS

from .digits import blend
from .folders import EXTENSIONS, ByExtension

PATCH = 28


def blend_into_photographs(
    digits: np.ndarray, photographs: Sequence[np.ndarray], seed: int = 0
) -> np.ndarray:
    """Blend each digit into a random patch of a random photograph, see :func:`.digits.blend`.

    Which patch a digit gets depends on ``(seed, its index)`` alone.

    Args:
        digits: (N, 28, 28) uint8, bright on black.
        photographs: (H, W, 3) uint8 each, no side shorter than 28 pixels.
        seed: Draws the patches. Defaults to 0.

    Returns:
        (N, 28, 28, 3) uint8, RGB where the photographs are.

    Raises:
        ValueError: If there are no photographs, or one is too small.
    """
    if not len(photographs):
        raise ValueError('MNIST-M needs photographs to blend digits into, got none')
    smallest = min(min(photo.shape[:2]) for photo in photographs)
    if smallest < PATCH:
        raise ValueError(f'every photograph must be {PATCH} pixels or more a side, got {smallest}')
    return np.stack(
        [
            blend(digit, photographs, np.random.default_rng((seed, index)))
            for index, digit in enumerate(digits)
        ]
    )


def load_photographs(folder: str | Path) -> list[np.ndarray]:
    """Load all photographs of a folder in order of their names, (H, W, 3) RGB uint8 each.

    Raises:
        FileNotFoundError: If the folder holds none.
    """
    from PIL import Image

    taken = ByExtension()
    paths = sorted(path for path in Path(folder).glob('*') if path.is_file() and taken(path.name))
    if not paths:
        raise FileNotFoundError(
            f'no photographs ({", ".join(EXTENSIONS)}) in {Path(folder).absolute()}'
        )
    if taken.left_out:
        print_log(f'{folder}: left out are {taken.describe(taken.left_out)}.', 'current')
    return [np.asarray(Image.open(path).convert('RGB')) for path in paths]


@DATASETS.register_module()
class MNISTM(BaseDataset):
    """MNIST-M as ``tools/make_mnist_m.py`` writes it: 28x28 RGB digits in photographs.

    Images are in memory as ``img`` (RGB, so set ``to_rgb=False``), like mmpretrain's MNIST.

    Args:
        data_root (str): Folder with ``train.npz`` and ``test.npz``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        **kwargs: As in :class:`mmpretrain.datasets.BaseDataset`: ``pipeline``, ``indices``, ...

    Raises:
        ValueError: If there is no such split.
        FileNotFoundError: If the data isn't there; says how to make it.
    """

    METAINFO = {'classes': MNIST_CATEGORITES}

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        if split not in ('train', 'test'):
            raise ValueError(f"MNISTM has the splits 'train' and 'test', got {split!r}")
        super().__init__(ann_file=f'{split}.npz', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict an image: ``img`` and ``gt_label``."""
        path = Path(self.ann_file)
        if not path.is_file():
            raise FileNotFoundError(
                f'no MNIST-M at {path}: make it with\n  python tools/make_mnist_m.py --mnist '
                f'FOLDER_OF_IDX_FILES --photographs FOLDER_OF_JPGS --out {path.parent}'
            )
        with np.load(path, allow_pickle=False) as data:
            images, labels = data['images'], data['labels']
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, labels)]


@TRANSFORMS.register_module()
class RepeatChannels(BaseTransform):
    """Repeat the channel of a grey image, so that the images of both domains have one shape.

    Required and modified key: ``img``, (H, W) or (H, W, 1). Other images pass unchanged.

    Args:
        channels: Number of channels, positive. Defaults to 3.

    Raises:
        ValueError: If ``channels`` isn't positive.
    """

    def __init__(self, channels: int = 3) -> None:
        if channels < 1:
            raise ValueError(f'RepeatChannels: channels must be positive, got {channels}')
        self.channels = channels

    def transform(self, results: dict) -> dict:
        """Repeat the channel of ``results['img']``."""
        image = results['img']
        image = image[..., None] if image.ndim == 2 else image
        if image.shape[-1] == 1:
            results['img'] = np.repeat(image, self.channels, axis=-1)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(channels={self.channels})'
