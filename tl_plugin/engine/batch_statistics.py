"""Statistics of norm layers, re-estimated from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import LayerMap


def estimate_batch_statistics(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]
) -> int:
    """Set running means and variances to those of all values that come through the layers.

    Each layer normalises a batch by the batch's own statistics, as in training, and adds up what it
    sees: all images weigh alike, in the last, smaller batch too, and over all processes. Every
    other layer is in eval mode. Weights don't change, nor does the mode of any layer.

    Args:
        model: A network with batch norms, without its wrapper.
        batches: Of at least two images each.
        forward: Runs one of them through the model.

    Returns:
        How many layers it set.

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
    """Batch norms that keep running statistics, by name; not those of a discriminator."""
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
        """Mean and unbiased variance of what all processes saw; False where they saw nothing."""
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
    modes = {module: module.training for module in model.modules()}
    kept = {layer: (layer.momentum, layer.num_batches_tracked) for layer in moments}
    with ExitStack() as stack:
        model.eval()
        for layer, seen in moments.items():
            # Normalise by the batch; its statistics go into ours, with all digits.
            layer.train()
            layer.momentum, layer.num_batches_tracked = 0.0, None
            handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0]))
            stack.callback(handle.remove)
        try:
            yield
        finally:
            for layer, (momentum, tracked) in kept.items():
                layer.momentum, layer.num_batches_tracked = momentum, tracked
            for module, mode in modes.items():
                module.training = mode
