"""Turn the pipeline of test images into a part of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mmcv.transforms
import torch
from mmengine.registry import DefaultScope
from mmpretrain.datasets import transforms
from mmpretrain.registry import TRANSFORMS
from torch import Tensor, nn

from .resampling import INTERPOLATIONS, resize

_WITHOUT = 'or leave the preprocessing out of the file (--no-preprocessing)'
#: Transforms that don't change the pixels of an RGB image.
_NO_CHANGE = ('LoadImageFromFile', 'PackInputs', 'RepeatChannels', 'ImageToTensor', 'Collect')


class ResizeEdge(NamedTuple):
    """Resize so that one edge has a length, and keep the ratio of the sides."""

    length: int
    edge: str
    interpolation: str
    backend: str

    def __call__(self, images: Tensor) -> Tensor:
        """Resize (N, C, H, W)."""
        rows, columns = images.shape[2], images.shape[3]
        kept = {
            'short': _smaller(rows, columns),
            'long': rows + columns - _smaller(rows, columns),
            'width': columns,
            'height': rows,
        }[self.edge]
        height, width = self.length * rows // kept, self.length * columns // kept
        return resize(images, height, width, self.interpolation, self.backend)


class Resize(NamedTuple):
    """Resize to one size."""

    height: int
    width: int
    interpolation: str
    backend: str

    def __call__(self, images: Tensor) -> Tensor:
        """Resize (N, C, H, W)."""
        return resize(images, self.height, self.width, self.interpolation, self.backend)


class CenterCrop(NamedTuple):
    """Cut out the middle of images that are at least as large."""

    height: int
    width: int

    def __call__(self, images: Tensor) -> Tensor:
        """Crop (N, C, H, W)."""
        top = _half(images.shape[2] - self.height)
        left = _half(images.shape[3] - self.width)
        # By index, so that the size of the result is a number and no symbol.
        images = images[:, :, torch.arange(self.height) + top]
        return images[:, :, :, torch.arange(self.width) + left]


class EfficientNetCenterCrop(NamedTuple):
    """Cut out a square of a share of the shorter edge, and resize it."""

    size: int
    padding: int
    interpolation: str
    backend: str

    def __call__(self, images: Tensor) -> Tensor:
        """Crop and resize (N, C, H, W)."""
        rows, columns = images.shape[2], images.shape[3]
        whole = self.size + self.padding
        part = self.size * _smaller(rows, columns)
        side = part // whole
        top = _rounded_ratio(rows * whole - part, 2 * whole)
        left = _rounded_ratio(columns * whole - part, 2 * whole)
        images = images[:, :, torch.arange(side) + top]
        images = images[:, :, :, torch.arange(side) + left]
        return resize(images, self.size, self.size, self.interpolation, self.backend)


def _smaller(first: Any, second: Any) -> Any:
    """Return the smaller size: a number, a symbol of torch.export or a tensor of TorchScript."""
    smaller = torch.minimum if isinstance(first, Tensor) else torch.sym_min
    return smaller(first, second)


def _half(number: int) -> int:
    """Return ``round(number / 2)`` of a number that may be a symbol: half to the even one."""
    return number // 2 + (number % 2) * ((number // 2) % 2)


def _rounded_ratio(number: int, divisor: int) -> int:
    """Return ``round(number / divisor)``, half to the even one."""
    doubled = 2 * number + divisor
    nearest, rest = doubled // (2 * divisor), doubled % (2 * divisor)
    tie = 1 - _smaller(rest, rest * 0 + 1)
    return nearest - tie * (nearest % 2)


class Pipeline(NamedTuple):
    """What a pipeline does to the pixels of an image.

    Attributes:
        steps: In order.
        size: Height and width of the result; None where it is that of the image.
        loads: Whether it loads files, in the order BGR; else images come from memory.
    """

    steps: tuple[Any, ...]
    size: tuple[int, int] | None
    loads: bool = True

    def exact(self) -> bool:
        """Say whether the result is the pipeline's own to the pixel."""
        libraries = {
            (step.backend, step.interpolation) for step in self.steps if hasattr(step, 'backend')
        }
        return libraries <= {('cv2', 'bilinear'), ('cv2', 'nearest')}


def read_pipeline(pipeline: Sequence[dict]) -> Pipeline:
    """Read a pipeline of test images.

    Args:
        pipeline: Configs of transforms: loading, resizing and cropping alone.

    Raises:
        ValueError: If it has another transform, or images end up in several sizes.
    """
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = [TRANSFORMS.build(dict(one)) for one in pipeline]
    steps: list[Any] = []
    least = None  # height and width that images have at least
    size = None
    for transform in built:
        step = _step(transform)
        if step is None:
            continue
        steps.append(step)
        if isinstance(step, CenterCrop):
            if least is None or step.height > least[0] or step.width > least[1]:
                raise ValueError(
                    f'an image may be smaller than the crop of {step.height}x{step.width} pixels: '
                    f'put a Resize or a ResizeEdge of the short edge before it, {_WITHOUT}'
                )
            size = least = (step.height, step.width)
        elif isinstance(step, ResizeEdge):
            size = None
            least = (step.length, step.length) if step.edge == 'short' else None
        else:
            side = getattr(step, 'size', None)
            size = least = (side, side) if side else (step.height, step.width)
    if steps and size is None:
        raise ValueError(
            'the pipeline of test images gives images of several sizes, and a file of a network '
            f'needs one: end it in a CenterCrop or in a Resize to one size, {_WITHOUT}'
        )
    loads = any(type(one).__name__.startswith('LoadImage') for one in built)
    return Pipeline(tuple(steps), size, loads)


def _step(transform: Any) -> Any:
    name = type(transform).__name__
    if isinstance(transform, transforms.ResizeEdge):
        return ResizeEdge(transform.scale, transform.edge, *_method(transform))
    if isinstance(transform, transforms.EfficientNetCenterCrop):
        return EfficientNetCenterCrop(
            transform.crop_size, transform.crop_padding, *_method(transform)
        )
    if isinstance(transform, mmcv.transforms.Resize):
        if transform.scale is None or transform.keep_ratio:
            raise ValueError(
                f'{name} keeps the ratio of the sides, so that images end up in several sizes: use '
                f'ResizeEdge and CenterCrop, {_WITHOUT}'
            )
        width, height = transform.scale
        return Resize(height, width, *_method(transform))
    if isinstance(transform, mmcv.transforms.CenterCrop):
        width, height = transform.crop_size
        return CenterCrop(height, width)
    if isinstance(transform, mmcv.transforms.LoadImageFromFile) and transform.color_type != 'color':
        raise ValueError(
            f'the pipeline loads images with color_type={transform.color_type!r}, and a file takes '
            f"colour images: use 'color', {_WITHOUT}"
        )
    if name not in _NO_CHANGE:
        raise ValueError(
            f'{name} in the pipeline of test images has no counterpart in a file: expected '
            f'LoadImageFromFile, Resize, ResizeEdge, CenterCrop, EfficientNetCenterCrop and '
            f'PackInputs; change test_dataloader.dataset.pipeline, {_WITHOUT}'
        )
    return None


def _method(transform: Any) -> tuple[str, str]:
    import mmcv

    backend = transform.backend or mmcv.image.io.imread_backend
    if transform.interpolation not in INTERPOLATIONS.get(backend, ()):
        raise ValueError(
            f'{type(transform).__name__} resizes with {backend} and {transform.interpolation}, '
            f'and a file can with {INTERPOLATIONS}: change the pipeline, {_WITHOUT}'
        )
    return transform.interpolation, backend


class Preprocessing(nn.Module):
    """Images as they are decoded -> what the network is given.

    Args:
        pipeline: Of test images.
        data_preprocessor: The model's.
        channels: Of an image: 3, RGB, or 1. Defaults to 3.

    Raises:
        ValueError: If the data preprocessor pads images.
    """

    def __init__(self, pipeline: Pipeline, data_preprocessor: Any, channels: int = 3) -> None:
        super().__init__()
        divisor = getattr(data_preprocessor, 'pad_size_divisor', 1)
        if divisor > 1 and (pipeline.size is None or any(side % divisor for side in pipeline.size)):
            raise ValueError(
                f'data_preprocessor.pad_size_divisor={divisor} pads images of {pipeline.size} '
                f'pixels: end the pipeline in a size that it divides, {_WITHOUT}'
            )
        self.steps = pipeline.steps
        # What a graph is given is RGB, what OpenMMLab loads is BGR. Images in memory that aren't
        # turned are RGB already.
        self.flip = channels == 3 and pipeline.loads and not data_preprocessor.to_rgb
        self.normalise = bool(data_preprocessor._enable_normalize)
        if self.normalise:
            self.register_buffer('mean', data_preprocessor.mean.detach().cpu().clone())
            self.register_buffer('std', data_preprocessor.std.detach().cpu().clone())

    def forward(self, image: Tensor) -> Tensor:
        """Preprocess a batch.

        Args:
            image: (N, H, W, C), uint8.

        Returns:
            (N, C, height, width), float32.
        """
        images = image.permute(0, 3, 1, 2)
        if self.steps:
            images = images.double()
            for step in self.steps:
                images = step(images)
        images = images.float()
        if self.flip:
            images = images.flip(1)
        return (images - self.mean) / self.std if self.normalise else images
