"""Checks that all ranks hold the same weights, to the bit."""

from __future__ import annotations

import torch
from mmengine import dist
from mmengine.logging import print_log
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from tl_plugin.stack.model_wrappers import parameters

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
            f'{len(values)} parameters differ, {", ".join(names[:5])}. Something changed weights '
            'or requires_grad on some ranks alone, or without wrapping the model anew.'
        )
    print_log(
        f'All ranks hold equal weights {occasion} ({len(values)} parameters).', logger='current'
    )


def _bits(value: torch.Tensor) -> torch.Tensor:
    """Add up a tensor's bit patterns, which unlike its values tell NaN from NaN."""
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value)
    return value.contiguous().view(_WORDS[value.element_size()]).sum(dtype=torch.int64)
