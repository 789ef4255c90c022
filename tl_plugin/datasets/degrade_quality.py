"""Corrupt images as field cameras do: blur, low light, noise and the like, at a severity."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, Union

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from .image_quality import check_image

Severity = Union[float, Sequence[float], str]

MAX_SEVERITY = 5
# Lengths are in pixels of an image whose shorter side is so long, and grow with the image.
_SIDE = 128


def occlude(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Cover a square at a random place with one random grey.

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        size: Side of the square as a share of the shorter side, 0 to 1.
        rng: Draws the place and the grey.

    Returns:
        A new image.
    """
    height, width = image.shape[:2]
    side = round(size * min(height, width))
    top = int(rng.integers(0, height - side + 1))
    left = int(rng.integers(0, width - side + 1))
    covered = image.copy()
    covered[top : top + side, left : left + side] = rng.random()
    return covered


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur within each channel of ``(H, W, C)``, ``sigma`` in pixels; the border is reflected."""
    from scipy.ndimage import gaussian_filter  # takes long to import

    return gaussian_filter(image, sigma=(sigma, sigma, 0))


def sensor_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian read noise, independent per pixel and channel, and clip to [0, 1].

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        sigma: Standard deviation as a share of the full range.
        rng: Draws the noise.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32) * sigma
    return np.clip(image + noise, 0, 1)


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return np.atleast_3d(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT))


def _defocus(image: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    reach = int(np.ceil(radius))
    across = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    # A pixel that the disk's edge crosses counts in part, so that small steps of the radius show.
    return _filter(image, np.clip(radius + 1 - across, 0, 1))


def _motion(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    beside = -columns * np.sin(angle) + rows * np.cos(angle)
    inside = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    return _filter(image, inside * np.clip(1 - np.abs(beside), 0, 1))


def _color_cast(image: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    if image.shape[2] == 1:
        return image
    direction = rng.standard_normal(3)
    direction -= direction.mean()  # keeps the brightness
    gains = 1 + spread * direction / (np.abs(direction).max() + 1e-9)
    return image * gains.astype(np.float32)


def _dead_pixels(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    dead = rng.random(image.shape[:2], dtype=np.float32) < share
    values = rng.integers(0, 2, size=int(dead.sum())).astype(np.float32)
    image = image.copy()
    image[dead] = values[:, None]
    return image


def _jpeg(image: np.ndarray, loss: float) -> np.ndarray:
    _, code = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, round(100 - loss)])
    return cv2.imdecode(code, cv2.IMREAD_UNCHANGED)


class Corruption(NamedTuple):
    """A corruption of images.

    Args:
        strengths: At the severities 1 to 5, interpolated linearly between them.
        apply: Takes a float image ``(H, W, C)``, the strength and a generator. None for JPEG, which
            compresses the finished uint8 image.
        in_pixels: Whether strengths are lengths, which grow with the image. Defaults to False.
    """

    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray] | None
    in_pixels: bool = False

    def strength(self, severity: float) -> float:
        """Return the strength at a severity from 0, nothing, to 5.

        Example:
            >>> CORRUPTIONS['blur'].strength(3), CORRUPTIONS['noise'].strength(0.5)
            (1.6, 0.01)
        """
        return float(np.interp(severity, range(MAX_SEVERITY + 1), (0.0, *self.strengths)))


#: All corruptions by name, in the order in which light meets them: scene, optics, light, sensor,
#: file.
CORRUPTIONS = {
    # Side of the square, share of the shorter side.
    'occlusion': Corruption((0.12, 0.20, 0.28, 0.36, 0.45), occlude),
    # Radius of the disk beyond a pixel's own.
    'defocus': Corruption((0.6, 1.25, 2.25, 3.5, 5.0), _defocus, in_pixels=True),
    # Length of the streak.
    'motion': Corruption((3.0, 5.0, 8.0, 12.0, 17.0), _motion, in_pixels=True),
    # Standard deviation of the Gaussian.
    'blur': Corruption(
        (0.6, 1.0, 1.6, 2.4, 3.5),
        lambda image, sigma, rng: gaussian_blur(image, sigma),
        in_pixels=True,
    ),
    # Share of the light that is lost.
    'low_light': Corruption(
        (0.20, 0.35, 0.50, 0.62, 0.75), lambda image, share, rng: image * (1 - share)
    ),
    # How far the gains of the channels are apart.
    'color_cast': Corruption((0.05, 0.10, 0.16, 0.24, 0.33), _color_cast),
    # Standard deviation, share of the full range.
    'noise': Corruption((0.02, 0.04, 0.07, 0.11, 0.16), sensor_noise),
    # Share of the pixels.
    'dead_pixels': Corruption((0.001, 0.003, 0.008, 0.02, 0.04), _dead_pixels),
    # 100 minus libjpeg's quality.
    'jpeg': Corruption((40.0, 60.0, 75.0, 85.0, 92.0), None),
}


def degrade_image(
    image: np.ndarray, severities: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Apply corruptions to an image.

    Args:
        image: ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``, uint8, of any size.
        severities: Corruption -> severity from 0 to 5. They are applied in the order of
            :data:`CORRUPTIONS`, whatever their order here.
        rng: Draws places, directions and noise.

    Returns:
        A new image of the same shape.

    Raises:
        TypeError: If the image isn't an array of uint8.
        ValueError: If its shape is another one.

    Example:
        >>> grey = np.full((16, 16), 200, dtype=np.uint8)
        >>> degrade_image(grey, {'low_light': 3}, np.random.default_rng(0))[0, 0]
        np.uint8(100)
    """
    check_image(
        image, 'DegradeQuality', 'put it before what normalises images or turns them into tensors'
    )
    strengths = {
        name: corruption.strength(severities[name])
        for name, corruption in CORRUPTIONS.items()
        if severities.get(name)
    }
    if not strengths:
        return image.copy()
    loss = strengths.pop('jpeg', None)
    pixels = np.atleast_3d(image).astype(np.float32) / 255
    for name, strength in strengths.items():
        _, apply, in_pixels = CORRUPTIONS[name]
        scale = min(image.shape[:2]) / _SIDE if in_pixels else 1
        pixels = apply(pixels, strength * scale, rng)
    degraded = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return (degraded if loss is None else _jpeg(degraded, loss)).reshape(image.shape)


@TRANSFORMS.register_module()
class DegradeQuality(BaseTransform):
    """Corrupt images as a field camera does.

    Works on ``img``: uint8, grey or colour, of any size, before normalisation. Lengths grow with
    the image, so that a severity looks alike at every resolution.

    Required Keys: img; with a ``seed`` also img_path or sample_idx. Modified Keys: img

    Args:
        corruptions: Names out of :data:`CORRUPTIONS`, or name -> its own
            ``dict(severity=..., prob=...)``. Defaults to None, all.
        severity: From 0 (nothing) to 5: a number; a range ``(low, high)``, from which each
            corruption draws its own; or ``'mixed'``, one of 1 to 5 for all corruptions of an image.
            Defaults to 'mixed'.
        num_corruptions: How many of them an image gets: a number or a range ``(low, high)``.
            Defaults to None, all of them.
        prob: Probability of each corruption that was chosen for an image. Defaults to 1.
        seed: Makes the corruptions a function of the seed and of the image (its class folder and
            file, or its index): a fixed degraded copy. Defaults to None, drawn each time.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> degrade = DegradeQuality(corruptions=['blur', 'noise'], severity=3, seed=0)
        >>> image = np.full((32, 32, 3), 128, dtype=np.uint8)
        >>> first, again = (degrade(dict(img=image, img_path='a/b.png'))['img'] for _ in range(2))
        >>> bool((first == again).all()), bool((first == image).all())
        (True, False)
    """

    def __init__(
        self,
        corruptions: Sequence[str] | Mapping[str, dict] | None = None,
        severity: Severity = 'mixed',
        num_corruptions: int | Sequence[int] | None = None,
        prob: float = 1.0,
        seed: int | None = None,
    ) -> None:
        own = corruptions or tuple(CORRUPTIONS)
        own = own if isinstance(own, Mapping) else {name: {} for name in own}
        unknown = [name for name in own if name not in CORRUPTIONS]
        if unknown:
            raise ValueError(
                f'DegradeQuality has the corruptions {", ".join(CORRUPTIONS)}, got {unknown[0]}'
            )
        self.corruptions = {
            name: (options.get('severity', severity), options.get('prob', prob))
            for name, options in own.items()
        }
        for range_, probability in self.corruptions.values():
            _check_severity(range_)
            if not 0 <= probability <= 1:
                raise ValueError(f'DegradeQuality: prob must be in [0, 1], got {probability}')
        self.num_corruptions = _read_count(num_corruptions, len(self.corruptions))
        self.seed = seed

    def transform(self, results: dict) -> dict:
        """Degrade ``results['img']``."""
        rng = self._generator(results)
        results['img'] = degrade_image(results['img'], self.draw(rng), rng)
        return results

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Draw which corruptions an image gets, and how severe."""
        count = rng.integers(self.num_corruptions[0], self.num_corruptions[1] + 1)
        chosen = rng.permutation(len(self.corruptions))[:count]
        mixed = int(rng.integers(1, MAX_SEVERITY + 1))
        drawn = {}
        for index, (name, (severity, prob)) in enumerate(self.corruptions.items()):
            if index not in chosen or rng.random() >= prob:
                continue
            if severity == 'mixed':
                drawn[name] = mixed
            else:
                low, high = _bounds(severity)
                drawn[name] = rng.uniform(low, high)
        return drawn

    def _generator(self, results: Mapping[str, Any]) -> np.random.Generator:
        if self.seed is None:
            # The state that mmengine seeds in every worker.
            return np.random.default_rng(np.random.randint(2**31, size=4))
        if results.get('img_path'):
            # Folder and file alone, so that a copy of the data elsewhere is degraded alike.
            name = '/'.join(PurePath(results['img_path']).parts[-2:])
            return np.random.default_rng((self.seed, zlib.crc32(os.fsencode(name))))
        if results.get('sample_idx') is None:
            raise ValueError(
                'DegradeQuality with a seed draws corruptions from the name or index of an image, '
                'and this one has neither img_path nor sample_idx'
            )
        return np.random.default_rng((self.seed, int(results['sample_idx'])))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(corruptions={self.corruptions}, '
            f'num_corruptions={self.num_corruptions}, seed={self.seed})'
        )


def _bounds(severity: Any) -> tuple[float, float]:
    return tuple(severity) if isinstance(severity, Sequence) else (severity, severity)


def _check_severity(severity: Any) -> None:
    if severity == 'mixed':
        return
    bounds = _bounds(severity)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in bounds)
    if len(bounds) != 2 or not numbers or not 0 <= bounds[0] <= bounds[1] <= MAX_SEVERITY:
        raise ValueError(
            f"severity must be a number from 0 to {MAX_SEVERITY}, a range of two such or 'mixed', "
            f'got {severity!r}'
        )


def _read_count(count: int | Sequence[int] | None, known: int) -> tuple[int, int]:
    low, high = _bounds(known if count is None else count)
    if not 0 <= low <= high <= known:
        raise ValueError(
            f'num_corruptions must be a number from 0 to {known}, the number of corruptions, or a '
            f'range of two such, got {count!r}'
        )
    return low, high
