"""Check that trained parameters get gradients, and that all ranks hold equal weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakSet

import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import parameters, unwrap

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


class GradientCheck:
    """Find trained parameters without a gradient in the iteration after a change, and warn.

    A backbone that recomputes activations in the reentrant way (``with_cp``, ``use_checkpoint``
    in some) gives its first blocks after a frozen trunk no gradients, and nothing else says so.

    Args:
        model: The model, with or without its wrapper. Nothing can be seen under FSDP, whose
            gradients lie in flat shards.
    """

    def __init__(self, model: nn.Module) -> None:
        self._missing: dict[int, str] = {}
        self._handles = []
        if isinstance(model, FullyShardedDataParallel):
            return
        for name, value in parameters(model).items():
            if value.requires_grad:
                self._missing[id(value)] = name
                self._handles.append(value.register_post_accumulate_grad_hook(self._note))

    def _note(self, value: nn.Parameter) -> None:
        self._missing.pop(id(value), None)

    def finish(self) -> list[str]:
        """Remove the hooks, and warn of parameters without a gradient.

        Returns:
            Their names.
        """
        for handle in self._handles:
            handle.remove()
        missing = list(self._missing.values())
        if missing:
            print_log(
                f'{len(missing)} parameters are to train but got no gradient in the first '
                f'iteration: {short_list(missing, 5)}. Either the '
                'loss does not depend on them, or the backbone recomputes activations '
                '(with_cp, use_checkpoint), which stops gradients right after a frozen trunk: '
                "switch that off, and use mmengine's activation_checkpointing, which works.",
                logger='current',
                level=logging.WARNING,
            )
        return missing


_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_ranks_equal(model: nn.Module, occasion: str) -> None:
    """Compare the weights of all ranks. Call it on all of them.

    Args:
        model: The model, with or without its wrapper. FSDP's is divided among the ranks, so
            there is nothing to compare.
        occasion: When this is, for the message: ``'before unfreezing at iteration 40'``.

    Raises:
        RuntimeError: If any parameter differs, with the names and the ranks.
    """
    if dist.get_world_size() == 1 or isinstance(model, FullyShardedDataParallel):
        return
    values = parameters(model)
    sums = torch.stack([_bits(value) for value in values.values()])
    gathered = torch.stack(dist.all_gather(sums))
    differs = (gathered != gathered[0]).cpu()
    if differs.any():
        names = [name for name, bad in zip(values, differs.any(0)) if bad]
        ranks = differs.any(1).nonzero().flatten().tolist()
        raise RuntimeError(
            f'Ranks {ranks} hold other weights than rank 0 {occasion}: {len(names)} of '
            f'{len(values)} parameters differ, {short_list(names, 5)}. Something changed weights '
            'or requires_grad on some ranks alone, or without wrapping the model again.'
        )
    print_log(
        f'All ranks hold equal weights {occasion} ({len(values)} parameters).', logger='current'
    )


def _bits(value: torch.Tensor) -> torch.Tensor:
    """Add up a tensor's bit patterns, which are comparable where values are NaN."""
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value)
    return value.contiguous().view(_WORDS[value.element_size()]).sum(dtype=torch.int64)
