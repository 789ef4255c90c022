"""Keeps what no step needs any more from costing time in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn
from torch.optim import Optimizer


class Rest:
    """Modules that don't run in training any more, and stay in eval mode.

    Args:
        model: The unwrapped model.
        names: Of the modules.
        optimizers: Which hold their weights.
    """

    def __init__(
        self, model: nn.Module, names: Iterable[str], optimizers: Sequence[Optimizer]
    ) -> None:
        self._roots = [model.get_submodule(name) for name in names]
        #: All of them, and all inside.
        self.modules = {part for root in self._roots for part in root.modules()}
        weights = {id(value) for root in self._roots for value in root.parameters()}
        self._groups = [
            (group, group['params'], [v for v in group['params'] if id(v) not in weights])
            for optimizer in optimizers
            for group in optimizer.param_groups
        ]

    def begin(self) -> None:
        """Keeps the modules in eval mode, so that ``model.train()`` needn't visit them."""
        for root in self._roots:
            root.eval()
            # A method, for those are bound to the copy where a module is copied.
            vars(root)['train'] = MethodType(_stay, root)

    def end(self) -> None:
        """Lets them change modes again."""
        for root in self._roots:
            vars(root).pop('train', None)

    @contextmanager
    def out_of_optimizers(self) -> Iterator[None]:
        """Optimizers pass over weights without a gradient, but look at each of them."""
        for group, _, others in self._groups:
            group['params'] = others
        try:
            yield
        finally:
            for group, every, _ in self._groups:
                group['params'] = every


def _stay(module: nn.Module, mode: bool = True) -> Any:
    return module
