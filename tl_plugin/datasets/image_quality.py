"""Measure the quality of one image without a reference image."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np

#: Statistics of the surroundings of pixels are computed on at most this many pixels a side, in the
#: middle of the image, so that a huge image costs no more than a large one.
WINDOW = 1024
#: Pixels within this many grey levels of black or white count as clipped.
CLIPPED = 3
#: A pixel that differs from all its neighbours by at least this many grey levels counts as dead.
DEAD = 48
#: Share of the strongest gradients that are taken for edges and not for noise.
EDGES = 0.1
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
_BLOCK = 8
_BLUR_LENGTH = 11


class Statistic(NamedTuple):
    """What a statistic means, for reports.

    Args:
        label: Its name in words.
        unit: What its values are in, '' for a plain number.
        worse: ``'high'`` or ``'low'``: which values are a defect; '' where neither is.
        about: One sentence for someone who doesn't process images.
    """

    label: str
    unit: str
    worse: str
    about: str


#: Every statistic of :func:`measure_quality`, in its order.
STATISTICS = {
    'sharpness': Statistic(
        'sharpness', 'grey levels', 'low', 'Strength of fine detail; noise counts as detail too.'
    ),
    'blur': Statistic(
        'blur', '0 to 1', 'high', 'How little changes if the image is blurred once more.'
    ),
    'noise': Statistic(
        'noise', 'grey levels', 'high', 'Grain of the sensor; fine texture counts in part.'
    ),
    'brightness': Statistic('brightness', '0 to 1', '', 'Mean lightness.'),
    'contrast': Statistic('contrast', '0 to 1', 'low', 'Spread of light and dark.'),
    'clipped_dark': Statistic(
        'black pixels', 'share', 'high', 'Share of the image without any light left in it.'
    ),
    'clipped_bright': Statistic(
        'white pixels', 'share', 'high', 'Share of the image that is burnt out, or plain white.'
    ),
    'saturation': Statistic('saturation', '0 to 1', '', 'How far from grey single pixels are.'),
    'colorfulness': Statistic('colourfulness', '', '', 'How many and how strong colours are.'),
    'color_cast': Statistic(
        'colour cast', 'Lab distance', 'high', 'How far from grey the image as a whole is.'
    ),
    'blockiness': Statistic(
        'blockiness', 'ratio', 'high', 'Visible 8-pixel blocks of strong JPEG compression; 1: none.'
    ),
    'dead_pixels': Statistic(
        'dead pixels', 'share', 'high', 'Single pixels far off from all their neighbours.'
    ),
    'resolution': Statistic('resolution', 'pixels a side', 'low', 'Side of a square as large.'),
    'aspect_ratio': Statistic('aspect ratio', 'width : height', '', 'Width over height.'),
}


def measure_quality(image: np.ndarray) -> dict[str, float]:
    """Measure an image's quality.

    Args:
        image: ``(H, W)``, ``(H, W, 1)`` or RGB ``(H, W, 3)``, uint8.

    Returns:
        One finite number for each of :data:`STATISTICS`:

        - ``sharpness``: standard deviation of the Laplacian of the grey image, in grey levels; its
          square is the variance of the Laplacian of Pech-Pacheco et al., "Diatom autofocusing in
          brightfield microscopy", ICPR 2000.
        - ``blur``: 0 (sharp) to 1; see :func:`perceptual_blur`.
        - ``noise``: standard deviation in grey levels, mean of the channels; see
          :func:`noise_level`.
        - ``brightness``: mean of the grey image, 0 to 1.
        - ``contrast``: standard deviation of the grey image, 0 to 0.5: the root mean square
          contrast of Peli, "Contrast in complex images", JOSA A 1990.
        - ``clipped_dark``, ``clipped_bright``: share of pixels of the grey image within
          :data:`CLIPPED` levels of black and white.
        - ``saturation``: mean of (max - min) / max over the channels, 0 to 1.
        - ``colorfulness``: Hasler and Süsstrunk, "Measuring colourfulness in natural images", Human
          Vision and Electronic Imaging 2003; 0 is grey, 109 extremely colourful.
        - ``color_cast``: distance of the mean colour from grey in the a, b plane of CIELAB.
        - ``blockiness``: 1 without JPEG blocks; see :func:`blockiness`.
        - ``dead_pixels``: share of pixels at least :data:`DEAD` levels above or below all eight
          neighbours, in the worst channel.
        - ``resolution``: square root of height times width, in pixels.
        - ``aspect_ratio``: width over height.

    Raises:
        TypeError: If the image isn't an array of uint8.
        ValueError: If it has another shape, or no pixels.

    Example:
        >>> grey = np.full((64, 32, 3), 51, dtype=np.uint8)
        >>> found = measure_quality(grey)
        >>> round(found['brightness'], 6), found['noise'], found['aspect_ratio']
        (0.2, 0.0, 0.5)
    """
    check_image(image, 'measure_quality', 'scale values in [0, 1] by 255 first')
    image = image[:, :, 0] if image.shape[2:] == (1,) else image
    window, sample = _middle(image), _thinned(image)
    grey = _grey(window)
    values = {
        'sharpness': float(cv2.Laplacian(grey, cv2.CV_32F).std()),
        'blur': perceptual_blur(grey),
        'noise': noise_level(window),
        **_light(_grey(sample)),
        **_colour(sample),
        'blockiness': blockiness(grey),
        'dead_pixels': _dead_pixels(window),
        'resolution': float(image.shape[0] * image.shape[1]) ** 0.5,
        'aspect_ratio': image.shape[1] / image.shape[0],
    }
    return {name: values[name] for name in STATISTICS}


def perceptual_blur(grey: np.ndarray) -> float:
    """Measure how little an image changes when it is blurred again.

    Crété-Roffet et al., "The Blur Effect: Perception and Estimation with a New No-Reference
    Perceptual Blur Metric", Human Vision and Electronic Imaging 2007. Hardly moved by light and
    contrast, unlike the variance of the Laplacian.

    Args:
        grey: ``(H, W)``.

    Returns:
        0 (sharp) to 1, the larger one of both directions; 1 if nothing varies at all.
    """
    # Float64 has room for sums over a million pixels, where float32 would make 0 of differences.
    grey = grey.astype(np.float64)
    blurs = []
    for dx, dy, size in ((1, 0, (_BLUR_LENGTH, 1)), (0, 1, (1, _BLUR_LENGTH))):
        again = cv2.blur(grey, size, borderType=cv2.BORDER_REFLECT)
        sharp, blurred = (
            np.abs(cv2.Sobel(part, cv2.CV_64F, dx, dy, borderType=cv2.BORDER_REFLECT))
            for part in (grey, again)
        )
        # Where the filters reach over the border they see its reflection.
        total = sharp[2:-1, 2:-1].sum()
        lost = np.maximum(sharp - blurred, 0)[2:-1, 2:-1].sum()
        blurs.append(1.0 if total == 0 else float((total - lost) / total))
    return max(blurs)


def noise_level(image: np.ndarray) -> float:
    """Estimate the standard deviation of white noise.

    Immerkær, "Fast Noise Variance Estimation", CVIU 1996, away from edges as in Tai and Yang, "Fast
    method for image noise estimation using Laplacian operator and adaptive edge detection", ISCCSP
    2008. What is clipped to black or white carries no noise and is left out too.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, values 0 to 255.

    Returns:
        In grey levels, mean of the channels; 0 for images smaller than 3 x 3.
    """
    if min(image.shape[:2]) < 3:
        return 0.0
    levels = []
    for channel in cv2.split(image.astype(np.float32)):
        strength = np.abs(cv2.filter2D(channel, cv2.CV_32F, _IMMERKAER))[1:-1, 1:-1]
        # Smoothed before the gradients are taken, or the mask would leave out the noise itself.
        smooth = cv2.GaussianBlur(channel, (5, 5), 0)
        gradient = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0))
        gradient = (gradient + np.abs(cv2.Sobel(smooth, cv2.CV_32F, 0, 1)))[1:-1, 1:-1]
        inner = smooth[1:-1, 1:-1]
        open_ = (inner > CLIPPED) & (inner < 255 - CLIPPED)
        if not open_.any():
            levels.append(0.0)
            continue
        flat = open_ & (gradient <= np.quantile(gradient[open_], 1 - EDGES))
        levels.append(float(strength[flat].mean()) * (np.pi / 2) ** 0.5 / 6)
    return float(np.mean(levels))


def blockiness(grey: np.ndarray) -> float:
    """Compare the steps at the edges of JPEG's 8-pixel blocks with the steps inside of blocks.

    After Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of JPEG compressed
    images", ICIP 2002: their two differential signals, as a ratio. An image that was cropped or
    resized after compression has lost the grid and passes as clean.

    Args:
        grey: ``(H, W)``, the upper left corner on the grid.

    Returns:
        1 without blocks, 2 if steps at edges are twice as high; 1 for less than two blocks a side.
    """
    if min(grey.shape) < 2 * _BLOCK:
        return 1.0
    at_edges, inside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(grey.astype(np.float32), axis=axis)).mean(axis=1 - axis)
        is_edge = np.arange(1, len(steps) + 1) % _BLOCK == 0
        at_edges.append(steps[is_edge].mean())
        inside.append(steps[~is_edge].mean())
    # A hundredth of a level, so that a plain surface has a ratio of 1 and not of 0 / 0.
    return float((np.mean(at_edges) + 0.01) / (np.mean(inside) + 0.01))


def check_image(image: Any, user: str, fix: str) -> None:
    """Refuse what is no grey or colour image of uint8.

    Args:
        image: What was given.
        user: What expects the image, for the message.
        fix: How to fix another type, for the message.

    Raises:
        TypeError: If it isn't an array of uint8.
        ValueError: If its shape isn't ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)``, or is empty.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, 'dtype', type(image).__name__)
        raise TypeError(f'{user} expects an array of uint8, got {got}: {fix}')
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise ValueError(
            f'{user} expects (H, W), (H, W, 1) or RGB (H, W, 3) with at least one pixel, got '
            f'{image.shape}'
        )


def _middle(image: np.ndarray) -> np.ndarray:
    # On the grid of JPEG's blocks.
    top, left = (max(side - WINDOW, 0) // 2 // _BLOCK * _BLOCK for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + WINDOW, left : left + WINDOW])


def _thinned(image: np.ndarray) -> np.ndarray:
    """Take every n-th pixel of a large image: means and spreads stay what they are."""
    step = -(-max(image.shape[:2]) // WINDOW)
    return np.ascontiguousarray(image[::step, ::step])


def _grey(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _light(grey: np.ndarray) -> dict[str, float]:
    return {
        'brightness': float(grey.mean(dtype=np.float64)) / 255,
        'contrast': float(grey.std(dtype=np.float64)) / 255,
        'clipped_dark': float((grey <= CLIPPED).mean()),
        'clipped_bright': float((grey >= 255 - CLIPPED).mean()),
    }


def _colour(image: np.ndarray) -> dict[str, float]:
    if image.ndim == 2:
        return {'saturation': 0.0, 'colorfulness': 0.0, 'color_cast': 0.0}
    channels = cv2.split(image)
    red, green, blue = (channel.astype(np.float64) for channel in channels)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    mean = np.hypot(red_green.mean(), yellow_blue.mean())
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    # Pair by pair: NumPy takes ten times as long over an axis of three.
    highest = functools.reduce(cv2.max, channels).astype(np.float64)
    lowest = functools.reduce(cv2.min, channels)
    return {
        'saturation': float(((highest - lowest) / np.maximum(highest, 1)).mean()),
        'colorfulness': float(spread + 0.3 * mean),
        'color_cast': float(np.hypot(*lab[:, :, 1:].mean(axis=(0, 1), dtype=np.float64))),
    }


def _dead_pixels(image: np.ndarray) -> float:
    around = np.ones((3, 3), dtype=np.uint8)
    around[1, 1] = 0
    image = image.astype(np.int16)
    above = image - cv2.dilate(image, around)
    below = cv2.erode(image, around) - image
    dead = (above >= DEAD) | (below >= DEAD)
    return float(dead.reshape(-1, image.shape[2] if image.ndim == 3 else 1).mean(axis=0).max())
