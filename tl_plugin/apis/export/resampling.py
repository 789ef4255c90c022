"""Resize images inside a graph, with the integer arithmetic of OpenCV and Pillow.

A network that was tested on images of one library sees other pixels from another: OpenCV's bilinear
resizing doesn't average what it leaves out, Pillow's does, and both round to whole levels on the
way. What is here uses only operators that every exporter knows, in float64, in which these integers
are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: Bits of the fixed-point weights in Pillow's ``Resample.c`` and of OpenCV's ``resize.cpp``.
_PILLOW_BITS, _OPENCV_BITS = 22, 11


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(a: float) -> Callable[[Tensor], Tensor]:
    """Return the cubic convolution kernel (Keys, 1981) with a slope of ``a`` at 1."""

    def kernel(x: Tensor) -> Tensor:
        x = x.abs()
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))

    return kernel


def _lanczos(x: Tensor) -> Tensor:
    angle = math.pi * torch.where(x == 0, 1.0, x)
    value = angle.sin() / angle * (angle / 3).sin() / (angle / 3)
    return torch.where(x == 0, 1.0, torch.where(x.abs() < 3, value, 0.0))


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).double()


def _hamming(x: Tensor) -> Tensor:
    angle = math.pi * torch.where(x == 0, 1.0, x)
    value = angle.sin() / angle * (0.54 + 0.46 * angle.cos())
    return torch.where(x == 0, 1.0, torch.where(x.abs() < 1, value, 0.0))


class _Kernel(NamedTuple):
    support: float
    weight: Callable[[Tensor], Tensor]


_PILLOW = {
    'bilinear': _Kernel(1.0, _triangle),
    'bicubic': _Kernel(2.0, _cubic(-0.5)),
    'lanczos': _Kernel(3.0, _lanczos),
    'box': _Kernel(0.5, _box),
    'hamming': _Kernel(1.0, _hamming),
}
#: Backend -> interpolations that :func:`resize` has.
INTERPOLATIONS = {
    'pillow': tuple(_PILLOW),
    'cv2': ('nearest', 'bilinear', 'bicubic', 'area'),
}


def resize(images: Tensor, height: int, width: int, interpolation: str, backend: str) -> Tensor:
    """Resize images as OpenCV or Pillow does.

    Args:
        images: (N, C, H, W), whole levels from 0 to 255, float64.
        height: Of the result.
        width: Of the result.
        interpolation: A name of mmcv, see :data:`INTERPOLATIONS`.
        backend: 'cv2' or 'pillow'.

    Returns:
        (N, C, height, width), whole levels, float64.

    Example:
        >>> ramp = torch.arange(4.0, dtype=torch.float64).expand(1, 1, 2, 4) * 10
        >>> resize(ramp, 1, 2, 'bilinear', 'cv2').tolist()
        [[[[5.0, 25.0]]]]
    """
    rows, columns = images.shape[2], images.shape[3]
    if interpolation == 'nearest':
        images = images[:, :, :, _nearest(columns, width)]
        return images[:, :, _nearest(rows, height)]
    if backend == 'pillow':
        images = _rounded(images @ _pillow_weights(columns, width, interpolation).T)
        return _rounded(_pillow_weights(rows, height, interpolation) @ images)
    if interpolation == 'bilinear':
        return _opencv_bilinear(images, height, width)
    matrix = _area_weights if interpolation == 'area' else _opencv_cubic_weights
    images = matrix(rows, height) @ (images @ matrix(columns, width).T)
    return _rounded(images)


def _rounded(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)


def _ratio(count: int, size: int) -> Tensor:
    # As a tensor: the sizes are symbols while a graph is traced.
    return torch.ones((), dtype=torch.float64) * count / size


def _nearest(count: int, size: int) -> Tensor:
    places = torch.arange(size).double() * _ratio(count, size)
    return places.floor().long().clamp(max=count - 1)


def _pillow_weights(count: int, size: int, interpolation: str) -> Tensor:
    """Return Pillow's weights of ``count`` pixels in each of ``size`` ones, (size, count)."""
    kernel = _PILLOW[interpolation]
    ratio = _ratio(count, size)
    stretch = ratio.clamp(min=1)
    centre = ((torch.arange(size).double() + 0.5) * ratio)[:, None]
    pixel = torch.arange(count).double()[None]
    reach = kernel.support * stretch
    first, end = (centre - reach + 0.5).floor(), (centre + reach + 0.5).floor()
    weights = kernel.weight((pixel - centre + 0.5) * (1 / stretch))
    weights = torch.where((pixel >= first) & (pixel < end), weights, 0.0)
    weights = weights / weights.sum(dim=1, keepdim=True)
    whole = weights * 2**_PILLOW_BITS
    # Half away from zero, as a cast of +-0.5 + w does.
    return whole.sign() * (whole.abs() + 0.5).floor() / 2**_PILLOW_BITS


def _taps(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return OpenCV's place before each pixel, from -1 on, and the whole weight of the next one."""
    scale = 1 / _ratio(size, count)
    place = ((torch.arange(size).double() + 0.5) * scale - 0.5).float()
    first = place.floor()
    return first.long(), ((place - first) * 2**_OPENCV_BITS).round().double()


def _opencv_bilinear(images: Tensor, height: int, width: int) -> Tensor:
    rows, columns = images.shape[2], images.shape[3]
    first, weight = _taps(columns, width)
    # Beyond the border a row is its last pixel; beyond the last row, that row counts twice.
    weight = torch.where((first < 0) | (first >= columns - 1), 0.0, weight)
    left, right = first.clamp(min=0), (first + 1).clamp(max=columns - 1)
    one = 2**_OPENCV_BITS
    images = images[:, :, :, left] * (one - weight) + images[:, :, :, right] * weight
    images = (images / 16).floor()
    first, weight = _taps(rows, height)
    weight = weight[:, None]
    top, bottom = first.clamp(min=0), (first + 1).clamp(max=rows - 1)
    images = (images[:, :, top] * (one - weight) / 65536).floor() + (
        images[:, :, bottom] * weight / 65536
    ).floor()
    return ((images + 2) / 4).floor().clamp(0, 255)


def _opencv_cubic_weights(count: int, size: int) -> Tensor:
    """Return the weights of four neighbours, pixels beyond the border being those on it."""
    centre = ((torch.arange(size).double() + 0.5) * _ratio(count, size) - 0.5)[:, None]
    kernel = _cubic(-0.75)
    pixel = torch.arange(count).double()[None]
    weights = kernel(pixel - centre)
    for beyond in (1, 2):
        below, above = kernel(-beyond - centre), kernel(count - 1 + beyond - centre)
        weights = weights + torch.where(pixel == 0, below, 0.0)
        weights = weights + torch.where(pixel == count - 1, above, 0.0)
    return weights


def _area_weights(count: int, size: int) -> Tensor:
    """Return the share of each pixel in the area of each of fewer ones."""
    ratio = _ratio(count, size)
    start = (torch.arange(size).double() * ratio)[:, None]
    pixel = torch.arange(count).double()[None]
    overlap = torch.minimum(pixel + 1, start + ratio) - torch.maximum(pixel, start)
    return overlap.clamp(min=0) / ratio
