"""A loader of cached features, in the order in which its loader would give the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from mmpretrain.structures import DataSample
from torch import Tensor

from tl_plugin.datasets.image_numbers import identity
from tl_plugin.reliability.bad_images import image_name
from tl_plugin.reliability.replayable_loader import DrawSampler, ReplayableLoader, is_endless

from .stages import Stage
from .store import FeatureStore


class FeatureBatch(dict):
    """An ordinary batch, whose images are NaN, and the features that replace them.

    Attributes:
        features: The tensors that the stage gives, the batch first.
        checked: Labels were checked when the cache was made.
    """

    checked = True
    features: list[Tensor]


class CachedFeatureLoader:
    """Replaces a loader of images; gives rows of a cache once it was filled.

    Args:
        loader: Of the images: order, batches and shards of the ranks are its own.

    Attributes:
        features: The cached tensors, all rows each.
        labels: The class indices of each row.
        sampler: The loader's sampler, for mmengine's ``DistSamplerSeedHook``.
    """

    #: The most samples that are kept, a few hundred bytes each; others are made each time.
    MAX_SAMPLES = 200_000

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

    def fill(self, store: FeatureStore, stage: Stage, device: torch.device) -> None:
        """Take the features of a cache.

        Args:
            store: The rows, one view of all images after the other.
            stage: What gave them.
            device: Of the model.
        """
        self._stage, self._device = stage, device
        self._dtypes = [value.dtype for value in stage.features]  # they may be kept in another
        self._views = len(store) // len(self.dataset)
        count = len(stage.features)
        self.features, scores = store.leaves[:count], store.leaves[count:]
        self._scores = scores[0] if scores else None
        lengths = [len(row) for row in store.labels]
        self.labels = torch.cat(store.labels).to(device).split(lengths)
        self._samples: dict[int, DataSample] = {}

    def seek(self, number: int, batch: int = 0) -> None:
        """Make batch number ``batch`` of pass ``number`` the first of the next iteration."""
        self._next = (number, batch)

    def __iter__(self) -> Iterator[FeatureBatch]:
        number, first = self._order.place = self._next
        self._next = (number + 1, 0)
        endless = is_endless(self.loader)
        for place, indices in enumerate(self._order, first):
            number = place // len(self) if endless else number
            yield self._batch(indices, number % self._views)

    def _batch(self, indices: Sequence[int], view: int) -> FeatureBatch:
        rows = [int(index) + view * len(self.dataset) for index in indices]
        samples = [
            self._samples[row] if row in self._samples else self._make_sample(row) for row in rows
        ]
        batch = FeatureBatch(inputs=self._stage.images(len(rows)), data_samples=samples)
        chosen = torch.tensor(rows)
        batch.features = [
            leaf.index_select(0, chosen).to(self._device, dtype)
            for leaf, dtype in zip(self.features, self._dtypes)
        ]
        return batch

    def _make_sample(self, row: int) -> DataSample:
        index = row % len(self.dataset)
        name = image_name(self.dataset, index)
        sample = DataSample(metainfo=dict(identity(self.dataset, index), img_path=name))
        if len(self.labels[row]):
            sample.set_gt_label(self.labels[row])
        if self._scores is not None:
            sample.set_gt_score(self._scores[row].to(self._device))
        if len(self._samples) < self.MAX_SAMPLES:
            self._samples[row] = sample
        return sample


class _RowSampler(DrawSampler):
    """The indices of a pass, from any batch on, and nothing else."""

    def _draw(self, batches: Iterator, number: int, skipped: int) -> Iterator:
        return islice(batches, skipped, None)
