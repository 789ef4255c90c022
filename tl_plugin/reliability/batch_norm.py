"""Batches of one image, of which batch normalization can't take a variance."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .replayable_loader import is_endless

CURE = 'Set drop_last=True in the loader, or another batch_size'


def trained_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that train.

    Args:
        model: A model.
    """
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters())
    ]


def lone_image(loader: Any) -> str | None:
    """Says that the last batch of a pass has one image; None if it hasn't.

    Args:
        loader: A training loader over indices.
    """
    size, samples = loader.batch_size, len(loader.sampler)
    if not size or size == 1 or samples % size != 1 or loader.drop_last or is_endless(loader):
        return None
    return f'the last batch of each epoch has 1 image ({samples} on this rank, batches of {size})'


class LoneImageGuard:
    """Says what is wrong before BatchNorm is given one value a channel to train on.

    Whether it is depends on the size of the feature map: one image is enough for most layers, and
    none for the last ones of a network that ends in a single pixel.

    Args:
        model: The model.
        batch: What the batch is, for the message.
    """

    def __init__(self, model: nn.Module, batch: str) -> None:
        self.batch = batch
        model = model.module if is_model_wrapper(model) else model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._handles = [
            module.register_forward_pre_hook(self._check)
            for module in model.modules()
            if isinstance(module, _BatchNorm)
        ]

    def remove(self) -> None:
        """Ends the watch."""
        for handle in self._handles:
            handle.remove()

    def _check(self, module: nn.Module, inputs: tuple) -> None:
        values = inputs[0]
        if module.training and values.numel() == values.shape[1]:
            name = self._names[id(module)]
            raise ValueError(
                f'{self.batch} has 1 image, of which {type(module).__name__} at {name!r} gets one '
                f'value a channel {tuple(values.shape)}, and that has no variance. {CURE}'
            )
