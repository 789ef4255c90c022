"""Keeps modules that no step needs any more from costing time in each."""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

from torch import nn


class Rest:
    """Modules that don't run in training any more, and stay in eval mode.

    Args:
        model: The unwrapped model.
        names: Of the modules.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._roots = [model.get_submodule(name) for name in names]
        #: All of them, and all inside.
        self.modules = {part for root in self._roots for part in root.modules()}
        #: Their weights.
        self.weights = [value for root in self._roots for value in root.parameters()]

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


def _stay(module: nn.Module, mode: bool = True) -> Any:
    return module
