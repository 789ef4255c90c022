"""A loader of cached features, in the order in which its loader would give the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from tl_plugin.reliability.replayable_loader import DrawSampler, ReplayableLoader, is_endless

from .cut import Cut
from .rows import CachedSamples
from .store import FeatureStore


class FeatureBatch(dict):
    """An ordinary batch, with images that say nothing, and the features that stand in for them.

    Attributes:
        features: The tensors behind the cut, the batch first.
        labels: One class an image, (N,); None where images have several, or scores.
        checked: Says that labels were looked at when the cache was made.
    """

    checked = True
    features: list[Tensor]
    labels: Tensor | None


class CachedFeatureLoader:
    """Stands in for a loader of images; gives rows of a cache once there is one.

    Args:
        loader: Of the images: order, batches and shards of the ranks are its own.

    Attributes:
        loader: The same.
        features: The cached tensors, all rows each.
        sampler: Its sampler, for mmengine's ``DistSamplerSeedHook``.
    """

    def __init__(self, loader: ReplayableLoader) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.sampler = loader.sampler
        self.batch_sampler = loader.batch_sampler
        self._order = _RowSampler(loader, loader.batch_sampler)
        self._next = (0, 0)

    def __len__(self) -> int:
        return len(self.loader)

    def fill(self, store: FeatureStore, cut: Cut, device: torch.device) -> None:
        """Takes a cache.

        Args:
            store: The rows, one view of all images after the other.
            cut: Where the model goes on from them.
            device: Where the model is.
        """
        self._cut, self._device = cut, device
        self._dtypes = [value.dtype for value in cut.features]  # they may be kept in another
        self._views = len(store) // len(self.dataset)
        count = len(cut.features)
        self.features = store.leaves[:count]
        scores = store.leaves[count] if len(store.leaves) > count else None
        self._samples = CachedSamples(self.dataset, store, scores, device)

    def seek(self, number: int, batch: int = 0) -> None:
        """Makes batch number ``batch`` of pass ``number`` the first of the next iteration."""
        self._next = (number, batch)

    def __iter__(self) -> Iterator[FeatureBatch]:
        number, first = self._order.place = self._next
        self._next = (number + 1, 0)
        endless = is_endless(self.loader)
        for place, indices in enumerate(self._order, first):
            number = place // len(self) if endless else number
            yield self._batch(indices, number % self._views)

    def _batch(self, indices: Sequence[int], view: int) -> FeatureBatch:
        if view:
            indices = [index + view * len(self.dataset) for index in indices]
        batch = FeatureBatch(
            inputs=self._cut.images(len(indices)), data_samples=self._samples.of(indices)
        )
        rows = torch.from_numpy(np.array(indices))  # five times as fast as torch.tensor
        batch.labels = self._samples.labels_of(rows)
        batch.features = [
            leaf.index_select(0, rows).to(self._device, dtype)
            for leaf, dtype in zip(self.features, self._dtypes)
        ]
        return batch


class _RowSampler(DrawSampler):
    """The indices of a pass, from any batch on, and no more."""

    def _draw(self, batches: Iterator, number: int, skipped: int) -> Iterator:
        return islice(batches, skipped, None)
