"""Run a model without data, memory or side effects, to learn what its forward pass would do."""

from __future__ import annotations

import copy
import logging
import types
from contextlib import contextmanager
from itertools import chain
from typing import Any, Iterator

import torch
from torch import nn


@contextmanager
def hollow_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Give a copy of a model whose tensors have shapes but no values, in eval mode.

    Inside the context every operation computes shapes alone. The copy shares nothing with the
    model, so weights, running statistics, caches, the train mode, hooks and the random state of
    the model stay as they are whatever the forward pass does.

    Args:
        model: Any module, on any device, also on the meta device.

    Yields:
        The copy, to be called inside the context.

    Example:
        >>> import torch
        >>> with hollow_copy(torch.nn.Linear(3, 5)) as hollow:
        ...     tuple(hollow(torch.empty(2, 3)).shape)
        (2, 5)
    """
    # A private module of torch: imported here so that a torch without it only loses dry runs.
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # Handing the hollow tensors to deepcopy as if it had copied them already is what keeps the
    # real ones from ever being duplicated.
    memo = {id(t): _hollow(t, mode) for t in chain(model.parameters(), model.buffers())}
    hollow = detached_copy(model, memo)
    with torch.random.fork_rng(devices=[]), mode, torch.no_grad(), _quiet():
        yield hollow


def detached_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a model for a trial run: in eval mode, and without the hooks that others hung on it.

    Args:
        model: Any module.
        memo: As in :func:`copy.deepcopy`. Defaults to None.

    Returns:
        The copy.
    """
    copied = copy.deepcopy(model, memo)
    copied.eval()  # returns None where a backbone of mmpretrain overrides `train`
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        # A function put there, as activation checkpointing does, is bound to the original module:
        # the copy would compute with its weights.
        if isinstance(vars(module).get('forward'), types.FunctionType):
            del module.forward
    return copied


def _hollow(tensor: torch.Tensor, mode) -> torch.Tensor:
    with mode:
        empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs a traceback where shapes don't fit; here one size after the other is tried."""
    log = logging.getLogger('torch._subclasses.fake_tensor')
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
