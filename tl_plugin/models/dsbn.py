from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_NAMES = ('running_mean', 'running_var', 'num_batches_tracked')


class DomainSpecificBatchNorm(nn.Module):
    """Running statistics of batch norms for the source; the layers' own are the target's (DSBN).

    Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", CVPR
    2019, arXiv 1906.03950, with weights that both domains share. The source's statistics start as
    the layers' own, for instance those of a pretrained model, at the first training step.

    Args:
        model: The model that has the batch norms. It isn't kept: layers are looked up by name,
            since synchronised batch norms replace others after this is built.

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
                'domain_specific_bn=True needs batch norms with running statistics, and '
                f'{type(model.backbone).__name__} has none'
            )
        for layer in self.layers:
            for name, value in _buffers(model, layer).items():
                self.register_buffer(_key(layer, name), value.clone())
        self.register_buffer('started', torch.zeros((), dtype=torch.bool))
        self._started: bool | None = None  # the buffer's value, without a host sync

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Swap the source's statistics into the layers of a model for the duration of a context."""
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
        """Copy the layers' own statistics to the source's, the first time that it is called.

        Args:
            model: The model that has the batch norms.
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
            self.started.fill_(False)  # a source checkpoint: start from its statistics
        self._started = None


def _key(layer: str, name: str) -> str:
    return f'{layer}.{name}'.replace('.', '/')


def _buffers(model: nn.Module, layer: str) -> dict[str, torch.Tensor]:
    buffers = model.get_submodule(layer)._buffers
    return {name: buffers[name] for name in _NAMES if buffers[name] is not None}
