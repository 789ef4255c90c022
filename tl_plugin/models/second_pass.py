"""A second forward of a training step, which leaves no trace in the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from tl_plugin.engine.batch_statistics import norm_layers

#: Parts whose weights and buffers the classification loss neither reads nor changes.
OTHERS = ('alignments.', 'regularizers.', 'teacher.')

#: What backbones call the recomputation of activations.
_RECOMPUTES = ('with_cp', 'use_checkpoint', 'grad_checkpointing', 'gradient_checkpointing')


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


def check_second_passes(model: Any) -> None:
    """Check that what a second pass changes is still there in the backward pass.

    Call it in a training forward, when activation checkpointing is switched on and FSDP has put
    tensors in the place of the weights.

    Args:
        model: An :class:`AdaptationClassifier`.

    Raises:
        ValueError: If a module computes its activations again in the backward pass, or FSDP shares
            the weights out, by the name of what takes the second pass.
    """
    if model.sharpness_rho:
        who, what = 'sdat (model.sharpness_rho)', 'weights'
    elif model.alignments.second_passes and norm_layers(model):
        who, what = ', '.join(model.alignments.second_passes), 'running statistics'
    else:
        return
    if what == 'weights' and not all(isinstance(v, nn.Parameter) for v in model.parameters()):
        raise ValueError(
            f'{who} computes a second pass at other weights, and FSDP shares the weights out among '
            'the processes: leave it out, or train by DDP'
        )
    for name, module in model.named_modules():
        values = vars(module)
        names = [key for key in _RECOMPUTES if values.get(key) is True]
        # mmengine's wrapper of a forward calls itself what it wraps.
        wrapper = getattr(values.get('forward'), '__globals__', {})
        if wrapper.get('__name__') == 'mmengine.runner.activation_checkpointing':
            names = ['activation_checkpointing']
        if names:
            raise ValueError(
                f'{who} computes a second pass with {what} of its own, and '
                f'{name or type(module).__name__} computes its activations again in the backward '
                f'pass ({names[0]}), when these are gone: switch off one of the two'
            )
