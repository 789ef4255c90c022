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
    patches = [_Forward(layer, moments, prior, track) for layer, moments in source.items()]
    try:
        for patch in patches:
            vars(patch.layer)['forward'] = patch
        yield
    finally:
        for patch in patches:
            del vars(patch.layer)['forward']
            vars(patch.layer).update(patch.kept)


class _Forward:
    """The forward of a batch norm by the statistics of its input.

    The layer's own forward does the rest, which may be more than a norm: timm's ``BatchNormAct2d``
    has the activation, too. It gets inputs that its source statistics normalise to what is wanted.
    """

    def __init__(
        self, layer: _BatchNorm, moments: tuple[Tensor, Tensor], prior: float, track: bool
    ) -> None:
        self.layer, self.moments, self.prior, self.track = layer, moments, prior, track
        self.plain = layer.forward
        #: An instance's own forward, which other tools set, too.
        self.kept = {key: value for key, value in vars(layer).items() if key == 'forward'}

    def __call__(self, inputs: Tensor) -> Tensor:
        layer, share = self.layer, len(inputs) / (len(inputs) + self.prior)
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        own = torch.var_mean(inputs, dims, correction=0)[::-1]
        mean, variance = (share * now + (1 - share) * old for now, old in zip(own, self.moments))
        if self.track:
            layer.running_mean.lerp_(mean.detach(), _MOMENTUM)
            layer.running_var.lerp_(variance.detach(), _MOMENTUM)
        source_mean, source_variance = self.moments
        scale = ((source_variance + layer.eps) / (variance + layer.eps)).sqrt()
        shift = source_mean - mean * scale
        shape = [1, -1, *[1] * (inputs.dim() - 2)]
        kept = dict(layer._buffers)
        layer._buffers.update(running_mean=source_mean, running_var=source_variance)
        try:
            return self.plain(inputs * scale.view(shape) + shift.view(shape))
        finally:
            layer._buffers.update(kept)


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
