"""Scanned digits as clean source and degraded field target, with nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from .degrade_quality import MAX_SEVERITY, gaussian_blur, occlude, sensor_noise

IMAGE_SIZE = 32
MARGIN = 2

# Images per split. Every (quality, split) has original digits of its own; what is left over
# after all the others is the target's train split.
SPLIT_SIZES = {
    ('clean', 'test'): 250,
    ('field', 'test'): 250,
    ('clean', 'val'): 100,
    ('field', 'val'): 100,
    ('field', 'few'): 50,
    ('clean', 'train'): 500,
    ('field', 'train'): 547,
}


class FieldConditions(NamedTuple):
    """The strongest corruptions of one severity; an image gets between half of each and all.

    Args:
        blur: Standard deviation of the Gaussian blur, in pixels of a 32-pixel image.
        darkening: Share of the light that is lost, 0 to 1.
        noise: Standard deviation of the sensor noise, as a share of the full range.
        occlusion: Side of the occluding square as a share of the image's shorter side.
    """

    blur: float
    darkening: float
    noise: float
    occlusion: float


CONDITIONS = {
    1: FieldConditions(blur=0.4, darkening=0.2, noise=0.02, occlusion=0.15),
    2: FieldConditions(blur=0.6, darkening=0.35, noise=0.04, occlusion=0.20),
    3: FieldConditions(blur=0.8, darkening=0.5, noise=0.06, occlusion=0.25),
    4: FieldConditions(blur=1.1, darkening=0.6, noise=0.09, occlusion=0.30),
    5: FieldConditions(blur=1.4, darkening=0.7, noise=0.12, occlusion=0.35),
}


def check_severity(severity: int) -> int:
    """Return ``severity`` if it is an integer from 0 (none) to 5 (worst).

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(severity, bool) or severity not in range(MAX_SEVERITY + 1):
        raise ValueError(
            f'severity must be an integer from 0 (not degraded) to {MAX_SEVERITY} (worst), '
            f'got {severity!r}'
        )
    return int(severity)


def degrade(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Corrupt an image in the order in which light meets it: scene, optics, sensor.

    The strength of each corruption is drawn between half and all of ``CONDITIONS[severity]``, so
    that images of one severity differ as those of a field camera do.

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        severity: 0 (returned unchanged) to 5.
        rng: Draws strengths, places and noise.

    Returns:
        A new image, values in [0, 1].

    Raises:
        ValueError: If the severity is not an integer from 0 to 5.

    Example:
        >>> grey = np.full((32, 32, 3), 0.5, dtype=np.float32)
        >>> bool(degrade(grey, 5, np.random.default_rng(0)).mean() < 0.4)
        True
    """
    if check_severity(severity) == 0:
        return image.copy()
    limits = CONDITIONS[severity]
    drawn = FieldConditions(*(limit * rng.uniform(0.5, 1) for limit in limits))
    image = occlude(image, drawn.occlusion, rng)
    image = gaussian_blur(image, drawn.blur * min(image.shape[:2]) / 32)
    return sensor_noise(image * (1 - drawn.darkening), drawn.noise, rng)


@lru_cache(maxsize=1)
def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Return all digits, bright on black, as ``(1797, 32, 32)`` uint8, and their labels."""
    import cv2
    from sklearn.datasets import load_digits

    scans = load_digits()
    size = IMAGE_SIZE - 2 * MARGIN
    images = np.zeros((len(scans.images), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for image, scan in zip(images, scans.images):
        inner = cv2.resize(scan * (255 / 16), (size, size), interpolation=cv2.INTER_LINEAR)
        image[MARGIN:-MARGIN, MARGIN:-MARGIN] = np.rint(inner)
    return images, scans.target.astype(np.int64)


@lru_cache(maxsize=1)
def load_photos() -> tuple[np.ndarray, ...]:
    """Return scikit-learn's two photographs, ``(427, 640, 3)`` RGB uint8 each."""
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


@lru_cache(maxsize=1)
def split_digits() -> dict[tuple[str, str], np.ndarray]:
    """Deal the original digits out to the splits, class by class in the same shares.

    The shuffle is fixed: no seed moves a digit from one split into another.
    """
    _, labels = load_scans()
    order = np.random.default_rng(0).permutation(len(labels))
    # Sorting by each digit's rank within its class interleaves the classes, so that any stretch
    # of the list holds all of them equally often, give or take one.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    dealt = np.lexsort((labels, rank))
    bounds = np.cumsum(list(SPLIT_SIZES.values()))[:-1]
    return {key: np.sort(part) for key, part in zip(SPLIT_SIZES, np.split(dealt, bounds))}


def blend(digit: np.ndarray, photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Blend a digit into a patch of a photograph, as MNIST-M does.

    ``|patch - digit|`` per pixel and channel: Ganin et al., "Domain-Adversarial Training of Neural
    Networks", JMLR 2016, arXiv:1505.07818, section 5.2.4.

    Args:
        digit: ``(N, N)`` uint8.
        photos: ``(H, W, 3)`` uint8 each, no side shorter than N.
        rng: Draws the photograph and the place of the patch.

    Returns:
        ``(N, N, 3)`` uint8.
    """
    side, photo = len(digit), photos[rng.integers(len(photos))]
    top, left = (rng.integers(0, edge - side + 1) for edge in photo.shape[:2])
    patch = photo[top : top + side, left : left + side]
    return np.abs(patch.astype(np.int16) - digit[..., None]).astype(np.uint8)


def make_field_image(index: int, severity: int, seed: int) -> np.ndarray:
    """Return the digit ``index`` as the field camera sees it, ``(32, 32, 3)`` RGB uint8.

    The photograph's patch and the degradation depend on ``(seed, index)`` alone, the patch not
    even on the severity, so that one digit can be compared across severities.
    """
    rng = np.random.default_rng((seed, index))
    image = blend(load_scans()[0][index], load_photos(), rng)
    if severity == 0:
        return image
    return np.rint(degrade(image.astype(np.float32) / 255, severity, rng) * 255).astype(np.uint8)


@lru_cache(maxsize=16)
def render(quality: str, split: str, severity: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return the images of one split, each ``(32, 32, 3)`` RGB uint8, in the split's order."""
    indices = split_digits()[quality, split]
    if quality == 'field':
        return tuple(make_field_image(int(index), severity, seed) for index in indices)
    return tuple(np.repeat(load_scans()[0][indices][..., None], 3, axis=-1))


@DATASETS.register_module()
class DigitsDataset(BaseDataset):
    """Scikit-learn's 1,797 scanned digits, 32x32 RGB: clean as source, from the field as target.

    The source is the scan itself. For the target each digit is blended into a patch of one of
    scikit-learn's two photographs (``|patch - digit|``, as MNIST-M does) and then degraded by
    occlusion, blur, low light and sensor noise. Images are in memory as ``img`` (RGB, so set
    ``to_rgb=False``), like mmpretrain's CIFAR10: its pipelines work unchanged.

    No original digit is in two splits, whatever their quality. The classes are in equal shares.

    =======  ==========================================================
    quality  splits (images)
    =======  ==========================================================
    clean    train (500), val (100), test (250)
    field    train (547), few (50, 5 a class), val (100), test (250)
    =======  ==========================================================

    Target labels are in the data for measuring; an adaptation run drops them before any loss.

    Args:
        quality (str): ``'clean'`` (source) or ``'field'`` (target). Defaults to ``'clean'``.
        split (str): One of the quality's splits above. Defaults to ``'train'``.
        severity (int): How far field images are degraded, 0 (only blended) to 5. Clean images are
            never degraded. Defaults to 2.
        seed (int): Draws patches and degradations; the splits don't depend on it. Defaults to 0.
        with_label (bool): Whether the images have labels. Defaults to True.
        **kwargs: As in :class:`mmpretrain.datasets.BaseDataset`: ``pipeline``, ``indices``, ...

    Raises:
        ValueError: If there is no such quality, split or severity.

    Example:
        >>> few = DigitsDataset(quality='field', split='few')
        >>> len(few), few.get_data_info(0)['img'].shape
        (50, (32, 32, 3))
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(
        self,
        quality: str = 'clean',
        split: str = 'train',
        severity: int = 2,
        seed: int = 0,
        with_label: bool = True,
        **kwargs,
    ):
        qualities = sorted({known for known, _ in SPLIT_SIZES})
        if quality not in qualities:
            raise ValueError(f'DigitsDataset has the qualities {qualities}, got {quality!r}')
        splits = sorted(known for owner, known in SPLIT_SIZES if owner == quality)
        if split not in splits:
            raise ValueError(f'quality={quality!r} has the splits {splits}, got split={split!r}')
        self.quality, self.split, self.seed = quality, split, seed
        self.severity = check_severity(severity)
        self.with_label = with_label
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return one dict an image: ``img``, ``gt_label`` and ``digit``, the original's index.

        The last two come with labels alone, since the original says what the digit is.
        """
        images = render(self.quality, self.split, self.severity, self.seed)
        _, labels = load_scans()
        if not self.with_label:
            return [dict(img=image) for image in images]
        return [
            dict(img=image, gt_label=int(labels[index]), digit=int(index))
            for image, index in zip(images, split_digits()[self.quality, self.split])
        ]

    def extra_repr(self) -> list[str]:
        """Say which images these are."""
        body = [f'Quality: \t{self.quality}', f'Split: \t{self.split}']
        if self.quality == 'field':
            body.append(f'Severity: \t{self.severity}')
        return body
