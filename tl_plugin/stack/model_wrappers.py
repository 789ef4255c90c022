"""Unwrap models from DDP, FSDP, ``torch.compile`` and activation checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

#: Children under which wrappers hide the module they wrap, anywhere in a model.
WRAPPED_CHILDREN = ('_fsdp_wrapped_module', '_orig_mod', '_checkpoint_wrapped_module')


def unwrap(module: nn.Module) -> nn.Module:
    """Take the wrappers off one module.

    Args:
        module: A module, perhaps wrapped several times over.

    Returns:
        The innermost wrapped module, or ``module`` itself where nothing wraps it.
    """
    while True:
        hidden = next((c for c in WRAPPED_CHILDREN if c in module._modules), None)
        if hidden is not None:
            module = module._modules[hidden]
        elif is_model_wrapper(module) and isinstance(getattr(module, 'module', None), nn.Module):
            module = module.module
        else:
            return module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a while, then each module back into its own mode.

    Args:
        model: Any model; parts of it may be frozen in eval mode while the rest trains.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def strip(name: str) -> str:
    """Remove the pieces that wrappers put into a parameter's name.

    Example:
        >>> strip('backbone._fsdp_wrapped_module.layer1.0._orig_mod.weight')
        'backbone.layer1.0.weight'
    """
    return '.'.join(piece for piece in name.split('.') if piece not in WRAPPED_CHILDREN)


def children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name and the unwrapped module of each child that has parameters."""
    for name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            yield name, unwrap(child)


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Collect a module's parameters by clean name, shared ones once, in the model's order."""
    return {strip(name): value for name, value in unwrap(module).named_parameters()}


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Gather the shards of a model under FSDP for a while; a change of them is not kept.

    Call it on all ranks at once.

    Args:
        model: Any model, with its wrapper.
    """
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            yield
    else:
        yield


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's ``state_dict``; under FSDP call it inside :func:`whole`.

    Args:
        module: A module, perhaps with parts that FSDP wraps, whose own ``state_dict`` is collective
            and empty on all ranks but the first.
    """
    module = unwrap(module)
    if not any(isinstance(part, FullyShardedDataParallel) for part in module.modules()):
        return module.state_dict()
    buffers = {
        f'{path}.{name}'.lstrip('.'): value
        for path, part in module.named_modules()
        for name, value in part.named_buffers(recurse=False)
        if name not in part._non_persistent_buffers_set
    }
    found = {**dict(module.named_parameters(remove_duplicate=False)), **buffers}
    return {strip(name): value for name, value in found.items()}


def matrix_ids(module: nn.Module) -> set[int]:
    """Collect the parameters that are matrices or kernels, not vectors (a bias, a norm's scale).

    Args:
        module: A module, also one under FSDP, which keeps its parameters as flat shards.

    Returns:
        The ``id`` of each.
    """
    found = {id(value) for value in module.parameters() if value.ndim > 1}
    for part in module.modules():
        flat = getattr(getattr(part, '_handle', None), 'flat_param', None)
        if flat is not None:
            shapes = zip(flat._params or (), flat._shapes)
            found |= {id(value) for value, shape in shapes if len(shape) > 1}
    return found
