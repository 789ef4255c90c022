"""Degrades images as field cameras do, as far and as repeatably as asked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Union

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from .degradation import MAX_SEVERITY, gaussian_blur, low_light, occlude, sensor_noise

Severity = Union[float, Sequence[float], str]

# Lengths are in pixels of an image whose shorter side is so long, and grow with the image.
_SIDE = 128
#: Strength of each corruption at the severities 1 to 5, interpolated linearly between them. The
#: order is that in which light meets them: scene, optics, light, sensor, file.
STRENGTHS = {
    'occlusion': (0.12, 0.20, 0.28, 0.36, 0.45),  # side of the square, share of the shorter side
    'defocus': (0.6, 1.25, 2.25, 3.5, 5.0),  # radius of the disk beyond a pixel's own, pixels
    'motion': (3.0, 5.0, 8.0, 12.0, 17.0),  # length of the streak, pixels
    'blur': (0.6, 1.0, 1.6, 2.4, 3.5),  # standard deviation of the Gaussian, pixels
    'low_light': (0.20, 0.35, 0.50, 0.62, 0.75),  # share of the light that is lost
    'color_cast': (0.05, 0.10, 0.16, 0.24, 0.33),  # how far channels' gains are apart
    'noise': (0.02, 0.04, 0.07, 0.11, 0.16),  # standard deviation, share of the full range
    'dead_pixels': (0.001, 0.003, 0.008, 0.02, 0.04),  # share of the pixels
    'jpeg': (40.0, 60.0, 75.0, 85.0, 92.0),  # 100 minus libjpeg's quality
}
CORRUPTIONS = tuple(STRENGTHS)


def strength(corruption: str, severity: float) -> float:
    """How strong a corruption is at a severity.

    Args:
        corruption: One of :data:`CORRUPTIONS`.
        severity: From 0, nothing, to 5.

    Example:
        >>> strength('blur', 3), strength('noise', 0.5)
        (1.6, 0.01)
    """
    anchors = (0.0, *STRENGTHS[corruption])
    return float(np.interp(severity, range(MAX_SEVERITY + 1), anchors))


def degrade_image(
    image: np.ndarray, severities: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """Gives an image corruptions.

    Args:
        image: ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``, uint8, of any size.
        severities: Fault -> severity from 0 to 5, possibly broken. The order is that of
            :data:`CORRUPTIONS`, whatever it is here.
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
    _check_image(image)
    severities = {name: severities[name] for name in CORRUPTIONS if severities.get(name)}
    if not severities:
        return image.copy()
    pixels = np.atleast_3d(image).astype(np.float32) / 255
    per_pixel = min(image.shape[:2]) / _SIDE
    for corruption, severity in severities.items():
        amount = strength(corruption, severity)
        if corruption != 'jpeg':
            pixels = _APPLY[corruption](pixels, amount, per_pixel, rng)
    found = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if 'jpeg' in severities:
        found = _jpeg(found, strength('jpeg', severities['jpeg']))
    return found.reshape(image.shape)


def _filter(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return np.atleast_3d(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT))


def _defocus(pixels: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    reach = int(np.ceil(radius))
    across = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    # A pixel that the disk's edge crosses counts in part, so that small steps of the radius show.
    return _filter(pixels, np.clip(radius + 1 - across, 0, 1))


def _motion(pixels: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    beside = -columns * np.sin(angle) + rows * np.cos(angle)
    inside = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1)
    return _filter(pixels, inside * np.clip(1 - np.abs(beside), 0, 1))


def _color_cast(pixels: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels
    direction = rng.standard_normal(3)
    direction -= direction.mean()  # as light as before
    gains = 1 + spread * direction / (np.abs(direction).max() + 1e-9)
    return pixels * gains.astype(np.float32)


def _dead_pixels(pixels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    dead = rng.random(pixels.shape[:2], dtype=np.float32) < share
    values = rng.integers(0, 2, size=int(dead.sum())).astype(np.float32)
    pixels = pixels.copy()
    pixels[dead] = values[:, None]
    return pixels


def _jpeg(image: np.ndarray, loss: float) -> np.ndarray:
    flags = [cv2.IMWRITE_JPEG_QUALITY, round(100 - loss)]
    _, code = cv2.imencode('.jpg', image, flags)
    return cv2.imdecode(code, cv2.IMREAD_UNCHANGED)


_APPLY = {
    'occlusion': lambda pixels, size, scale, rng: occlude(pixels, size, rng),
    'defocus': lambda pixels, radius, scale, rng: _defocus(pixels, radius * scale, rng),
    'motion': lambda pixels, length, scale, rng: _motion(pixels, length * scale, rng),
    'blur': lambda pixels, sigma, scale, rng: gaussian_blur(pixels, sigma * scale),
    'low_light': lambda pixels, share, scale, rng: low_light(pixels, share),
    'color_cast': lambda pixels, spread, scale, rng: _color_cast(pixels, spread, rng),
    'noise': lambda pixels, sigma, scale, rng: sensor_noise(pixels, sigma, rng),
    'dead_pixels': lambda pixels, share, scale, rng: _dead_pixels(pixels, share, rng),
}


@TRANSFORMS.register_module()
class DegradeQuality(BaseTransform):
    """Gives images the corruptions of a field camera.

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
        prob: Of a corruption that an image would get. Defaults to 1.
        seed: Makes what an image gets a function of the seed and of the image (its class folder
            and file, or its index): a fixed degraded copy. Defaults to None: drawn anew each time.

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
        own = corruptions or CORRUPTIONS
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
        """Degrades ``results['img']``."""
        rng = self._generator(results)
        results['img'] = degrade_image(results['img'], self.draw(rng), rng)
        return results

    def draw(self, rng: np.random.Generator) -> dict[str, float]:
        """Draws which corruptions an image gets, and how severe."""
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
                'DegradeQuality with a seed degrades each image as its name or index says, and '
                'this one has neither img_path nor sample_idx'
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


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, 'dtype', type(image).__name__)
        raise TypeError(
            f'DegradeQuality degrades images of uint8, got {got}: put it before what normalises '
            'them or turns them into tensors'
        )
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise ValueError(
            f'DegradeQuality expects (H, W), (H, W, 1) or (H, W, 3) with at least one pixel, got '
            f'{image.shape}'
        )
