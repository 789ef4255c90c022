"""Estimate the running statistics of batch norms from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_plugin.stack.model_wrappers import evaluating

from .layers import LayerMap


def estimate_batch_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]
) -> int:
    """Set running means and variances to those of all inputs of the layers.

    Each layer normalises a batch by the batch's own statistics, as in training, and accumulates
    them: all images have the same weight, also in a smaller last batch and over all processes.
    Every other layer is in eval mode. Weights and modes are left unchanged.

    Args:
        model: A network with batch norms, without its wrapper.
        batches: Batches of at least two images each.
        forward: Runs one of them through the model.

    Returns:
        The number of layers that were set.

    Raises:
        ValueError: If the model has no batch norm with statistics, or there is no batch.
    """
    layers = norm_layers(model)
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no batch norm with running statistics to adapt: this '
            'strategy does nothing for networks with layer norm'
        )
    moments = {layer: _Moments(layer) for layer in layers.values()}
    with _watching(model, moments), torch.no_grad():
        for batch in batches:
            forward(batch)
    found = [moments[layer].set_statistics(layer) for layer in layers.values()]
    if not any(found):
        raise ValueError('no batch of target images came through the norm layers')
    return sum(found)


def norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch norms with running statistics by name, without those of training only."""
    unused = LayerMap.training_only(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and not name.startswith(unused)
    }


class _Moments:
    """Count, sum and sum of squares of each channel, in double precision."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.sums = torch.zeros(
            2, layer.num_features, dtype=torch.float64, device=layer.running_mean.device
        )
        self.count = 0

    def add(self, values: Tensor) -> None:
        values = values.detach().double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.sums += torch.stack([values.sum(1), values.square().sum(1)])

    def set_statistics(self, layer: _BatchNorm) -> bool:
        """Set mean and unbiased variance over all processes; return False without any input."""
        totals = torch.cat([self.sums.flatten(), self.sums.new_tensor([self.count])])
        if get_world_size() > 1:
            all_reduce(totals)
        count = totals[-1]
        if count < 2:
            return False  # part of a loss, such as a discriminator's
        total, squares = totals[:-1].view(2, -1)
        mean = total / count
        layer.running_mean.copy_(mean)
        layer.running_var.copy_((squares - count * mean.square()).clamp(min=0) / (count - 1))
        return True


@contextmanager
def _watching(model: nn.Module, moments: dict[_BatchNorm, _Moments]) -> Iterator[None]:
    kept = {layer: (layer.momentum, layer.num_batches_tracked) for layer in moments}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for layer, seen in moments.items():
            # Normalise by the batch; the hook accumulates its statistics in double precision.
            layer.train()
            layer.momentum, layer.num_batches_tracked = 0.0, None
            handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0]))
            stack.callback(handle.remove)
        try:
            yield
        finally:
            for layer, (momentum, tracked) in kept.items():
                layer.momentum, layer.num_batches_tracked = momentum, tracked
