from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

# Tried in this order after what the module says of itself: ImageNet's, CIFAR's, MNIST's first.
_USUAL_SIZES = (224, 256, 32, 28, 64, 128, 384, 448, 512)
_SIZE_ATTRIBUTES = ('img_size', 'image_size', 'input_size', 'init_input_size', 'input_resolution')


def dry_run(module: nn.Module, forward: Callable[[Tensor], Any], batch_size: int = 2) -> Any:
    """Runs a forward on blank images to learn the shapes of what comes out, without computing it.

    It works on fake tensors, which carry a shape and no data; a forward that looks into its data
    runs for real, on zeros. Weights, buffers, modes, ``requires_grad`` and random state are left as
    they were.

    Args:
        module: Holds the weights that ``forward`` uses; its first convolution tells the number of
            channels, its attributes (``img_size`` and the like) the size of the images.
        forward: Takes a batch of images (N, C, H, W).
        batch_size: N. Defaults to 2.

    Returns:
        What ``forward`` returns. Read shapes alone from it.

    Raises:
        RuntimeError: If no usual image size goes through; the last failure is its cause.

    Example:
        >>> conv = nn.Conv2d(3, 8, kernel_size=2, stride=2)
        >>> dry_run(conv, conv).shape[:2]
        torch.Size([2, 8])
    """
    channels = input_channels(module)
    device = next((weight.device for weight in module.parameters()), torch.device('cpu'))
    failure = None
    for context in (_fake_in_eval, _fake_as_it_is, _real_in_eval):
        for height, width in _candidate_sizes(module):
            try:
                with context(module), torch.device(device), torch.no_grad():
                    return forward(torch.zeros(batch_size, channels, height, width))
            # Whatever a size or a fake tensor breaks in someone's forward, the next try may not.
            except Exception as error:
                failure = error
    raise RuntimeError(
        f'no forward of {type(module).__name__} went through on blank images with {channels} '
        f'channels, in any of the usual sizes; the last one failed with: {failure}'
    ) from failure


def input_channels(module: nn.Module) -> int:
    """Channels of the images a network takes: those of its first convolution, else 3."""
    for child in module.modules():
        if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return child.in_channels
    return 3


def _candidate_sizes(module: nn.Module) -> Iterator[tuple[int, int]]:
    seen = set()
    for size in (*_declared_sizes(module), *((size, size) for size in _USUAL_SIZES)):
        if size not in seen:
            seen.add(size)
            yield size


def _declared_sizes(module: nn.Module) -> Iterator[tuple[int, int]]:
    for child in module.modules():
        settings = getattr(child, 'pretrained_cfg', None)  # timm
        if isinstance(settings, dict):
            yield from _as_size(settings.get('input_size'))
        for name in _SIZE_ATTRIBUTES:
            yield from _as_size(getattr(child, name, None))


def _as_size(value: Any) -> Iterator[tuple[int, int]]:
    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
        yield value, value
    elif isinstance(value, (tuple, list)) and len(value) in (2, 3):
        height, width = value[-2:]
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 1:
            yield height, width


@contextlib.contextmanager
def _fake_in_eval(module: nn.Module) -> Iterator[None]:
    with _eval_mode(module), _fake_as_it_is(module):
        yield


@contextlib.contextmanager
def _fake_as_it_is(module: nn.Module) -> Iterator[None]:
    # For modules that make what their eval forward needs in an overridden `.eval()` (LeViT). Batch
    # norms in training update fake copies of their statistics.
    log = logging.getLogger('torch._subclasses.fake_tensor')
    level = log.level
    log.setLevel(logging.CRITICAL)  # a size that doesn't fit is no news
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _real_in_eval(module: nn.Module) -> Iterator[None]:
    with _eval_mode(module), torch.random.fork_rng():
        yield


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    # The attribute alone: `.eval()` and `.train()` are overridden by backbones that freeze stages
    # in them, and would change `requires_grad`.
    modes = [(child, child.training) for child in module.modules()]
    for child, _ in modes:
        child.training = False
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
