from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_NAMES = ('running_mean', 'running_var', 'num_batches_tracked')


class SourceStatistics(nn.Module):
    """The running statistics that batch norms have for the source; their own are the target's.

    Batch statistics by domain, with shared weights. They start as the layers' own, those of a
    pretrained model for instance, when the source first comes by.

    Args:
        model: Whose layers are meant. It isn't held: a layer is looked up by name each time, since
            synchronised batch norms replace others after this is built.

    Raises:
        ValueError: If it has no batch norm with running statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = [
            name
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        if not self.layers:
            raise ValueError(
                f"batch_statistics='per_domain' needs batch norms with running statistics, and "
                f'{type(model.backbone).__name__} has none'
            )
        for layer in self.layers:
            for name, value in _buffers(model, layer).items():
                self.register_buffer(_key(layer, name), value.clone())
        self.register_buffer('started', torch.zeros((), dtype=torch.bool))
        self._started: bool | None = None  # the buffer's value, for which a GPU needn't be asked

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Puts the source's statistics into the layers of a model, and takes them out again."""
        self.start(model)
        kept = {layer: _buffers(model, layer) for layer in self.layers}
        for layer in self.layers:
            ours = {name: self._buffers[_key(layer, name)] for name in kept[layer]}
            model.get_submodule(layer)._buffers.update(ours)
        try:
            yield
        finally:
            for layer, buffers in kept.items():
                model.get_submodule(layer)._buffers.update(buffers)

    def start(self, model: nn.Module) -> None:
        """Take the layers' own statistics for the source's, unless that has been done before.

        Args:
            model: Whose layers are meant.
        """
        if self._started is None:
            self._started = bool(self.started)
        if self._started:
            return
        for layer in self.layers:
            for name, value in _buffers(model, layer).items():
                self._buffers[_key(layer, name)].copy_(value)
        self.started.fill_(True)
        self._started = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f'{prefix}started' not in state_dict:
            self.started.fill_(False)  # a source checkpoint: start anew, from its statistics
        self._started = None


def _key(layer: str, name: str) -> str:
    return f'{layer}.{name}'.replace('.', '/')


def _buffers(model: nn.Module, layer: str) -> dict[str, torch.Tensor]:
    buffers = model.get_submodule(layer)._buffers
    return {name: buffers[name] for name in _NAMES if buffers[name] is not None}
