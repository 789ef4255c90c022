"""The order in which a network uses its parameters, seen in one forward pass without data."""
from __future__ import annotations

import itertools
import logging
from typing import Iterator

import torch
from mmengine.logging import print_log
from torch import nn
from torch.overrides import TorchFunctionMode

from tl_plugin.functional.hollow import hollow_copy

from .names import parameters

#: Image sizes tried in turn where a network doesn't say which one it takes.
IMAGE_SIZES = (224, 256, 384, 299, 32, 28, 448, 512)

#: What networks call the image size that they take.
SIZE_ATTRIBUTES = ('img_size', 'image_size', 'input_resolution', 'img_resolution')

FIRST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def execution_order(module: nn.Module) -> dict[str, int]:
    """Find when each parameter is first used in a forward pass.

    Nothing is computed and the module stays untouched: a hollow copy of it runs.

    Args:
        module: A network that takes one image batch, or one batch of vectors.

    Returns:
        The time of first use by parameter name, ``{}`` where the network can't be run. A
        parameter that the forward pass doesn't use is left out.
    """
    failures = []
    for shape in candidate_shapes(module):
        try:
            with hollow_copy(module) as hollow:
                names = {id(p): name for name, p in parameters(hollow).items()}
                with _FirstUses(names) as uses:
                    hollow(torch.empty(shape))
            return uses.times
        except Exception as error:  # any code may run here; what it can't do is no fault of ours
            failures.append(f'{shape}: {type(error).__name__}: {str(error)[:200]}')
    print_log(
        f'No forward pass of {type(module).__name__} could be traced; its layers are in the order '
        'in which they are registered. Tried ' + '; '.join(failures),
        logger='current', level=logging.DEBUG)
    return {}


class _FirstUses(TorchFunctionMode):
    """Notes the first operation that makes a tensor out of each parameter."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.times: dict[str, int] = {}
        self.clock = itertools.count()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Reading a shape or a dtype is no use: some stems ask the head for its dtype.
        if any(True for _ in _tensors(result)):
            for tensor in _tensors((args, tuple(kwargs.values()))):
                name = self.names.get(id(tensor))
                if name is not None:
                    self.times.setdefault(name, next(self.clock))
        return result


def _tensors(value) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def candidate_shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    """Yield input shapes that a network may take, the likeliest first.

    Args:
        module: A network.

    Yields:
        Shapes of a batch of 2.
    """
    first = next((m for m in module.modules() if isinstance(m, FIRST_LAYERS)), None)
    if isinstance(first, nn.Linear):
        yield (2, first.in_features)
    if isinstance(first, nn.Conv1d):
        yield (2, first.in_channels, 256)
    if isinstance(first, nn.Conv3d):
        yield (2, first.in_channels, 16, 112, 112)
    # The first convolution may come after something that changes the channels.
    channels = [first.in_channels, 3] if isinstance(first, nn.Conv2d) else [3]
    sizes = [*_declared_sizes(module), *((size, size) for size in IMAGE_SIZES)]
    for size, channel in itertools.product(dict.fromkeys(sizes), dict.fromkeys(channels)):
        yield (2, channel, *size)


def _declared_sizes(module: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield the image sizes that a network or its parts declare, under any of the usual names."""
    for part in module.modules():
        described = getattr(part, 'default_cfg', None)
        if isinstance(described, dict):
            yield from _as_size(described.get('input_size'))
        for owner in (part, getattr(part, 'config', None)):
            for key in SIZE_ATTRIBUTES:
                yield from _as_size(getattr(owner, key, None))


def _as_size(value) -> Iterator[tuple[int, int]]:
    if isinstance(value, int) and value > 1:
        yield (value, value)
    elif isinstance(value, (tuple, list)) and len(value) in (2, 3):
        yield tuple(value[-2:])
