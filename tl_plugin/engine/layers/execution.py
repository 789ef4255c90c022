"""The order in which a network uses its parameters, seen in one forward pass without data."""

from __future__ import annotations

import itertools
import logging
from typing import Iterator

import torch
from mmengine.logging import print_log
from torch import nn
from torch.overrides import TorchFunctionMode

from tl_plugin.stack.model_wrappers import parameters

from .dry_run import dry_run


def execution_order(module: nn.Module) -> dict[str, int]:
    """Find when each parameter is first used in a forward pass.

    The module stays untouched: a copy of it runs, without data wherever that is possible.

    Args:
        module: A network that takes one batch of images or of vectors.

    Returns:
        The time of first use by parameter name, ``{}`` where the network can't be run. A
        parameter that the forward pass doesn't use is left out.
    """
    try:
        return dry_run(module, _trace)
    except RuntimeError as error:
        print_log(
            f'{error} Its layers are in the order in which they are registered.',
            logger='current',
            level=logging.DEBUG,
        )
        return {}


def _trace(network: nn.Module, inputs: torch.Tensor) -> dict[str, int]:
    with _FirstUses({id(p): name for name, p in parameters(network).items()}) as uses:
        network(inputs)
    return uses.times


class _FirstUses(TorchFunctionMode):
    """Note the first operation that makes a tensor out of each parameter."""

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
