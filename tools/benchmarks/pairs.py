"""Eight pairs of domains, on which choice and estimates without target labels are measured.

Part of recommendations.py.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import harness  # noqa: F401  (puts the package on the path)
import numpy as np

from tl_plugin.datasets.degrade_quality import degrade_image
from tl_plugin.datasets.digits import SPLIT_SIZES, load_scans, render, split_digits

SIDE, SIDE_OF_DIGITS, IMAGES = 96, 64, 600
PAIRS = {
    'PACS photo -> cartoon': ('photo', 'cartoon'),
    'PACS photo -> art_painting': ('photo', 'art_painting'),
    'PACS cartoon -> photo': ('cartoon', 'photo'),
    'PACS cartoon -> art_painting': ('cartoon', 'art_painting'),
    'PACS art_painting -> photo': ('art_painting', 'photo'),
    'PACS art_painting -> cartoon': ('art_painting', 'cartoon'),
    'digits, scanned -> field': ('digits', 'digits_field'),
    'MNIST -> degraded MNIST, unequal classes': ('mnist', 'mnist_degraded'),
}


def side_of(name: str) -> int:
    """Return the side of the images that a network is given of a domain."""
    return SIDE_OF_DIGITS if 'digits' in name or 'mnist' in name else SIDE


def load_domain(
    name: str, data: Path, count: int = IMAGES, side: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Load images of a domain, in random order.

    Args:
        name: Of the domain.
        data: Holds pacs128 (or pacs) and mnist.
        count: Of images at most.
        side: Of the images. Defaults to None, that of the network's.

    Returns:
        The images, (N, S, S, 3) RGB uint8, and their labels.
    """
    side = side or side_of(name)
    if name.startswith('digits'):
        quality = 'field' if name.endswith('field') else 'clean'
        parts = [split for owner, split in SPLIT_SIZES if owner == quality]
        images = [image for split in parts for image in render(quality, split, 2, 0)]
        labels = load_scans()[1][np.concatenate([split_digits()[quality, s] for s in parts])]
    elif name.startswith('mnist'):
        images, labels = _mnist(data / 'mnist/MNIST/raw', name.endswith('degraded'), count)
    else:
        folder = data / 'pacs128'
        images, labels = _pacs((folder if folder.is_dir() else data / 'pacs') / name, count)
    order = np.random.default_rng(0).permutation(len(labels))[:count]
    sized = [cv2.resize(images[i], (side, side), interpolation=cv2.INTER_AREA) for i in order]
    return np.stack(sized), np.asarray(labels)[order]


def _pacs(folder: Path, count: int) -> tuple[list[np.ndarray], list[int]]:
    paths = sorted(folder.glob('*/*.jpg'))
    classes = sorted({path.parent.name for path in paths})
    chosen = np.random.default_rng(1).permutation(len(paths))[:count]
    paths = [paths[i] for i in chosen]
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    return images, [classes.index(path.parent.name) for path in paths]


def _mnist(folder: Path, degraded: bool, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return MNIST; degraded, other digits, each class three quarters as frequent as the last."""
    stem = 't10k' if degraded else 'train'
    images = np.fromfile(folder / f'{stem}-images-idx3-ubyte', np.uint8)[16:].reshape(-1, 28, 28)
    labels = np.fromfile(folder / f'{stem}-labels-idx1-ubyte', np.uint8)[8:].astype(int)
    images, labels = images[:9000], labels[:9000]
    rng = np.random.default_rng(2)
    weights = 0.75**labels if degraded else np.ones(len(labels))
    chosen = rng.choice(len(labels), count, replace=False, p=weights / weights.sum())
    found = [np.repeat(images[i][..., None], 3, axis=-1) for i in chosen]
    if degraded:
        kinds = ('blur', 'low_light', 'noise', 'occlusion')
        found = [degrade_image(one, dict.fromkeys(kinds, 3.0), rng) for one in found]
    return found, labels[chosen]
