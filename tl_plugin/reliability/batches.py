"""Batches of one or several domains: their parts, their images, and BatchNorm on one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tl_plugin.stack.model_wrappers import unwrap

DROP_LAST = 'Set drop_last=True in the loader, or another batch_size'


def domain_batches(batch: Any) -> Iterator[tuple[str, dict]]:
    """Yield the batch of each domain.

    Args:
        batch: What a train loader yields: a batch, or (nested) dicts of batches by domain.

    Yields:
        The domain, ``'target/strong'`` where dicts are nested and '' where there is only one, and
        its batch.
    """
    if not isinstance(batch, dict):
        return
    if 'inputs' in batch:
        yield '', batch
        return
    for name, inner in batch.items():
        for inner_name, found in domain_batches(inner):
            yield '/'.join(filter(None, (name, inner_name))), found


def image_names(batch: Any) -> list[str]:
    """Name the images of a batch, after their domain, see :func:`name_of_sample`.

    Args:
        batch: What a train loader yields.
    """
    return [
        f'{domain}: {name_of_sample(sample, place)}'.removeprefix(': ')
        for domain, inner in domain_batches(batch)
        for place, sample in enumerate(inner.get('data_samples') or [])
    ]


def name_of_sample(sample: Any, place: int) -> str:
    """Name an image by its path, by its id, or by its place in the batch.

    Args:
        sample: Its ``DataSample``.
        place: Its place in the batch, from 0.
    """
    for key in ('img_path', 'img_id', 'sample_idx'):
        value = sample.get(key, None)
        if value is not None:
            return str(value) if key == 'img_path' else f'image {value}'
    return f'number {place} of the batch'


class SingleImageGuard:
    """Raise before a BatchNorm layer trains on one value per channel, which has no variance.

    Whether one image is too few depends on the size of the feature map: it is enough for most
    layers, but not for the last ones of a network that ends in a single pixel.

    Args:
        model: The model.
        batch: What the batch is called, for the message.
    """

    def __init__(self, model: nn.Module, batch: str) -> None:
        self.batch = batch
        self._handles = [
            module.register_forward_pre_hook(self._checking(name))
            for name, module in unwrap(model).named_modules()
            if isinstance(module, _BatchNorm)
        ]

    def remove(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()

    def _checking(self, name: str):
        def check(module: nn.Module, inputs: tuple) -> None:
            values = inputs[0]
            if module.training and values.numel() == values.shape[1]:
                raise ValueError(
                    f'{self.batch} has 1 image, and {type(module).__name__} at {name!r} gets one '
                    f'value per channel {tuple(values.shape)}, which has no variance. '
                    f'{DROP_LAST}'
                )

        return check
