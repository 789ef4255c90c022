"""Keeps gradients flowing where activation checkpointing meets a frozen trunk."""

from __future__ import annotations

from typing import Sequence
from weakref import WeakSet

import torch
from torch import nn

from tl_plugin.stack.model_wrappers import unwrap

_WATCHED: WeakSet = WeakSet()


def let_gradients_pass(model: nn.Module, paths: str | Sequence[str] | None) -> None:
    """Make checkpointed modules train also where everything before them is frozen.

    mmengine's ``activation_checkpointing`` recomputes in the reentrant way, which gives a module
    no gradients at all where no input requires any: the first trained module after a frozen
    trunk would silently stay as it is.

    Args:
        model: The model, with or without its wrapper.
        paths: The config's ``activation_checkpointing``: one or several module paths.
    """
    for path in [paths] if isinstance(paths, str) else paths or []:
        module = unwrap(model).get_submodule(path)
        if module not in _WATCHED:
            module.register_forward_pre_hook(_require_input_gradients)
            _WATCHED.add(module)


def _require_input_gradients(module: nn.Module, inputs: tuple) -> tuple | None:
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if (
        not torch.is_grad_enabled()
        or any(value.requires_grad for value in tensors)
        or not any(value.requires_grad for value in module.parameters())
    ):
        return None
    return tuple(
        value.detach().requires_grad_()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for value in inputs
    )
