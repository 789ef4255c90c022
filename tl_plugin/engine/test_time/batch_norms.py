"""Batch norms that normalise by the batch at hand while a model predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Weight of a batch in the running statistics, as in training.
_MOMENTUM = 0.1


@contextmanager
def normalising_by_batch(
    source: Mapping[_BatchNorm, tuple[Tensor, Tensor]], prior: float, track: bool
) -> Iterator[None]:
    """Let batch norms in eval mode use the statistics of their input.

    Schneider et al., "Improving robustness against common corruptions by covariate shift
    adaptation", NeurIPS 2020, arXiv 2006.16971: the batch's moments, with those of the source as a
    prior that is worth so many images, since a small batch's own are noisy.

    Args:
        source: The layers, and mean and variance of the source in each, (C,).
        prior: Number of images that the source's moments are worth; 0 for the batch's alone.
        track: Whether running statistics follow, so that the model predicts alike later.
    """
    for layer, moments in source.items():
        vars(layer)['forward'] = _Forward(layer, moments, prior, track)
    try:
        yield
    finally:
        for layer in source:
            del vars(layer)['forward']


class _Forward:
    def __init__(
        self, layer: _BatchNorm, moments: tuple[Tensor, Tensor], prior: float, track: bool
    ) -> None:
        self.layer, self.moments, self.prior, self.track = layer, moments, prior, track

    def __call__(self, inputs: Tensor) -> Tensor:
        layer, share = self.layer, len(inputs) / (len(inputs) + self.prior)
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        own = torch.var_mean(inputs, dims, correction=0)[::-1]
        mean, variance = (share * now + (1 - share) * old for now, old in zip(own, self.moments))
        if self.track:
            layer.running_mean.lerp_(mean.detach(), _MOMENTUM)
            layer.running_var.lerp_(variance.detach(), _MOMENTUM)
        scale = (variance + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
        shape = [1, -1, *[1] * (inputs.dim() - 2)]
        return inputs * scale.view(shape) + shift.view(shape)


def moments_of(layers: Mapping[str, _BatchNorm]) -> dict[_BatchNorm, tuple[Tensor, Tensor]]:
    """Copy the running statistics of batch norms."""
    return {
        layer: (layer.running_mean.clone(), layer.running_var.clone()) for layer in layers.values()
    }


def parameters_of_norms(module: nn.Module, names: set[str]) -> dict[str, nn.Parameter]:
    """Return the weights and biases of norm layers by name, of those in ``names``."""
    from ..layers.module_kinds import norm_parameters

    affine = norm_parameters(module)
    return {
        name: value
        for name, value in module.named_parameters()
        if id(value) in affine and name in names
    }
