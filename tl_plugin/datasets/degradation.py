"""What a field camera does to an image: occlusion, blur, low light, sensor noise.

Pure functions on float images ``(H, W, C)`` with values in [0, 1]. Nothing is random but what a
given ``numpy.random.Generator`` draws, so equal generators give equal images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_SEVERITY = 5


class FieldConditions(NamedTuple):
    """The strongest degradations of one severity; an image gets between half of each and all.

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


def occlude(image: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """Cover a square at a random place with one random grey.

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        size: Side of the square as a share of the shorter side, 0 to 1.
        rng: Where and how bright.

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
    """Blur within each channel; the border is reflected.

    Args:
        image: ``(H, W, C)``.
        sigma: Standard deviation in pixels; 0 changes nothing.
    """
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, sigma=(sigma, sigma, 0))


def low_light(image: np.ndarray, darkening: float) -> np.ndarray:
    """Take away a share of the light.

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        darkening: 0 changes nothing, 1 gives black.
    """
    return image * (1 - darkening)


def sensor_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian read noise, independent per pixel and channel, and clip to [0, 1].

    Args:
        image: ``(H, W, C)``, values in [0, 1].
        sigma: Standard deviation as a share of the full range.
        rng: Draws the noise.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32) * sigma
    return np.clip(image + noise, 0, 1)


def degrade(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Degrade an image in the order in which light meets them: scene, optics, sensor.

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
        >>> import numpy as np
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
    image = low_light(image, drawn.darkening)
    return sensor_noise(image, drawn.noise, rng)
