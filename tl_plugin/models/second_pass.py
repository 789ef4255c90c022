"""A second forward of a training step, which leaves no trace in the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

#: Parts whose weights and buffers the classification loss neither reads nor changes.
OTHERS = ('alignments.', 'regularizers.', 'teacher.')


def second_pass(
    model: nn.Module, method: str, *args: Any, weights: Mapping[str, Tensor] = MappingProxyType({})
) -> Any:
    """Call a method of a classifier, with running statistics that are thrown away afterwards.

    Args:
        model: An :class:`AdaptationClassifier`.
        method: Name of the method.
        *args: Its arguments.
        weights: Tensors in the place of weights, by name. Gradients reach what they are made of.
            Defaults to none.

    Returns:
        What the method returns.
    """
    state = {
        f'model.{name}': value.clone()
        for name, value in model.named_buffers()
        if not name.startswith(OTHERS)
    }
    state.update((f'model.{name}', value) for name, value in weights.items())
    return torch.func.functional_call(_Call(model, method), state, args)


class _Call(nn.Module):
    """A method of a model as the forward of a module, which can be called with other weights."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *args: Any) -> Any:
        return getattr(self.model, self.method)(*args)
