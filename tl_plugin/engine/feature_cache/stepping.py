"""Optimizer steps on the few weights that train, at the cost of these alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

#: These have a fused step on a CPU that goes through memory once instead of four or more times.
_FUSED = (SGD, Adam, AdamW)


class LightSteps:
    """Lets optimizers see only what trains, for as long as a step takes.

    Torch's own optimizers pass over weights without a gradient, but look at each of them. Where
    nobody has chosen between their implementations (``fused`` and ``foreach`` are None), they take
    the fused one; before and after the step their groups are as the config has them.

    Args:
        optimizers: All of them.
        resting: The weights that don't train.
    """

    def __init__(self, optimizers: Sequence[Optimizer], resting: Sequence[Tensor]) -> None:
        ids = {id(value) for value in resting}
        self._groups = []
        #: Groups that wait for their first step, which makes the state that a fused step needs.
        self._new: list[tuple[Optimizer, dict, dict]] = []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                light = {'params': [value for value in group['params'] if id(value) not in ids]}
                self._groups.append((group, light, {key: group[key] for key in light}))
                if _can_fuse(optimizer, group, light['params']):
                    self._new.append((optimizer, group, light))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Enter the context of one step."""
        if self._new:
            self._fuse()
        for group, light, _ in self._groups:
            group.update(light)
        try:
            yield
        finally:
            for group, _, whole in self._groups:
                group.update(whole)

    def _fuse(self) -> None:
        """Decided by the state, which is in checkpoints: a resumed run steps as the whole one."""
        waiting = []
        for optimizer, group, light in self._new:
            if all(_begun(optimizer, group, value) for value in light['params']):
                light['fused'] = True
                next(w for g, _, w in self._groups if g is group)['fused'] = group['fused']
            else:
                waiting.append((optimizer, group, light))
        self._new = waiting


def _can_fuse(optimizer: Optimizer, group: dict, trained: Sequence[Tensor]) -> bool:
    unset = group.get('fused') is None and group.get('foreach') is None
    return (
        type(optimizer) in _FUSED
        and unset
        and not group.get('differentiable')
        and torch.get_default_dtype() is torch.float32
        and bool(trained)
        and all(v.device.type == 'cpu' and v.dtype is torch.float32 for v in trained)
    )


def _begun(optimizer: Optimizer, group: dict, value: Tensor) -> bool:
    """Whether there is the state that all but the first step find."""
    if isinstance(optimizer, SGD):
        found = optimizer.state.get(value, {}).get('momentum_buffer')
        return not group['momentum'] or found is not None
    return 'exp_avg' in optimizer.state.get(value, {})
