"""A data loader that can start at any batch of any pass, and gives there what it always gives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import DataLoader, IterableDataset

from .bad_images import Fault, FaultyBatch, TolerantCollate, read_or_replace
from .seeds import ORDER, SOURCE, seed_sample


class Draw(NamedTuple):
    """What goes to a worker instead of a bare index.

    Args:
        index: Which sample.
        key: Where its random numbers come from: (seed, stream, pass, position in the pass over all
            ranks). Two draws of one image in one pass differ.
    """

    index: Any
    key: tuple[int, ...]


class SampleReader:
    """Reads each sample with random numbers of its own.

    Args:
        dataset: What is read.
        tries: How many others to try in the place of an unreadable one; 0 lets the error out.
    """

    def __init__(self, dataset: Any, tries: int = 0) -> None:
        self.dataset = dataset
        self.tries = tries

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_sample(*draw.key)
        if self.tries:
            return read_or_replace(self.dataset, draw.index, self.tries)
        return self.dataset[draw.index]


class ReplayableLoader(DataLoader):
    """A DataLoader whose batches are a function of seed, pass and position alone.

    Whatever the number of workers, and whether they live on between passes, the same images come
    with the same augmentation. Skipped batches are never read: only their indices are drawn.

    Attributes:
        seed: Of all random numbers.
        stream: Keeps two loaders with one seed apart.
        tries: How many others to try in the place of an unreadable image. Defaults to 0.
        on_faults: Is called with the faults of each batch that had some.
    """

    @classmethod
    def of(cls, loader: Any, seed: int, stream: int = SOURCE) -> Any:
        """The replayable equal of a loader.

        Args:
            loader: A DataLoader over indices. Others (and what isn't a stock DataLoader) are
                returned as they are, with a warning.
            seed: Of all random numbers.
            stream: Keeps two loaders with one seed apart.
        """
        if isinstance(loader, ReplayableLoader):
            return loader
        if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
            print_log(
                f'{type(loader).__name__} over {type(getattr(loader, "dataset", None)).__name__} '
                'cannot start in the middle of a pass: a resumed run goes on at the beginning of '
                'one, and its random augmentation differs.',
                logger='current',
                level=logging.WARNING,
            )
            return loader
        own = cls.__new__(cls)
        vars(own).update(vars(loader), _iterator=None)
        own.seed, own.stream, own.tries, own.on_faults = seed, stream, 0, None
        own._next = (0, 0)
        own._draws = DrawSampler(own, super(ReplayableLoader, own)._index_sampler)
        return own

    seed: int
    stream: int
    tries: int
    on_faults: Callable[[list[Fault]], None] | None

    def seek(self, number: int, batch: int = 0) -> None:
        """Makes batch number ``batch`` of pass ``number`` the first of the next iteration.

        Args:
            number: Of the pass, from 0. Later passes count on from there.
            batch: Of the batch within the pass, from 0.
        """
        self._next = (number, batch)

    @property
    def _index_sampler(self) -> Any:
        return self._draws

    def __iter__(self) -> Iterator:
        self._draws.place = self._next
        self._next = (self._next[0] + 1, 0)
        # Not in the generator below: workers start now, as they do in a stock loader.
        return self._watch(super().__iter__())

    def _watch(self, batches: Iterator) -> Iterator:
        for batch in batches:
            if isinstance(batch, FaultyBatch):
                self.on_faults(batch.faults)
                batch = batch.batch
            yield batch

    def _get_iterator(self) -> Any:
        with self._reading_by_draws():
            return super()._get_iterator()

    @contextmanager
    def _reading_by_draws(self) -> Iterator[None]:
        """Iterators take the data set from the loader; everybody else shall find the original."""
        attributes = vars(self)
        dataset, collate = attributes['dataset'], attributes['collate_fn']
        attributes['dataset'] = SampleReader(dataset, self.tries)
        attributes['collate_fn'] = TolerantCollate(collate) if self.tries else collate
        try:
            yield
        finally:
            attributes.update(dataset=dataset, collate_fn=collate)


class DrawSampler:
    """Turns the indices of a pass into draws, from any batch on."""

    def __init__(self, loader: ReplayableLoader, indices: Any) -> None:
        self.loader, self.indices = loader, indices
        self.place = (0, 0)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator:
        # Iterators of torch ask twice when they begin; both times they are to get the same.
        number, skipped = self.place
        sampler = getattr(self.loader.batch_sampler, 'sampler', self.loader.sampler)
        set_epoch(self.loader, number)
        if isinstance(sampler, InfiniteSampler):
            # It goes on where it was left; its place is to follow from the number alone.
            sampler.indices = sampler._indices_of_rank()
        # For samplers that shuffle by the global generator, as torch's own does.
        seed_sample(self.loader.seed, ORDER, self.loader.stream, number)
        return self._draw(iter(self.indices), number, skipped)

    def _draw(self, batches: Iterator, number: int, skipped: int) -> Iterator:
        rank, world_size = get_dist_info()
        stem = (self.loader.seed, self.loader.stream, number)
        single = not self.loader._auto_collation
        position = 0
        for place, batch in enumerate(batches):
            indices = [batch] if single else batch
            if place >= skipped:
                draws = [
                    Draw(index, (*stem, rank + world_size * at))
                    for at, index in enumerate(indices, position)
                ]
                yield draws[0] if single else draws
            position += len(indices)


def is_endless(loader: Any) -> bool:
    """Say whether a pass over a loader never ends: all positions are in its first pass then.

    Args:
        loader: A loader, or what stands in for one and says so by its attribute ``endless``.
    """
    if hasattr(loader, 'endless'):
        return loader.endless
    batch_sampler = getattr(loader, 'batch_sampler', None)
    samplers = (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None))
    return any(isinstance(sampler, InfiniteSampler) for sampler in samplers)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader's sampler which pass comes, so that each has its own shuffle."""
    batch_sampler = getattr(loader, 'batch_sampler', None)
    for sampler in (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
            return


def seek(loader: Any, number: int, batch: int = 0) -> Iterator:
    """Iterates over a pass from a batch on, by reading and dropping where there is no other way.

    Args:
        loader: A :class:`ReplayableLoader`, something else with ``seek``, or any loader.
        number: Of the pass.
        batch: Of the first batch.
    """
    if hasattr(loader, 'seek'):
        loader.seek(number, batch)
        return iter(loader)
    set_epoch(loader, number)
    batches = iter(loader)
    for _ in range(batch):
        next(batches)
    return batches


class CyclingLoader:
    """Goes round a loader for ever and reshuffles it each pass.

    Which batch comes at a position is a function of the position alone, so that a resumed run goes
    on with the data that the uninterrupted one would have seen.

    Args:
        loader: Anything with a length that can be iterated; its sampler's ``set_epoch`` is called
            with the number of the pass. A :class:`ReplayableLoader` starts at any batch without
            reading those before it.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.position = 0
        self._iterator: Iterator | None = None
        # A pass of an endless sampler never ends, so all positions are in the first.
        self._endless = is_endless(loader)

    def __iter__(self) -> Iterator:
        return self

    def seek(self, position: int) -> None:
        """Makes batch number ``position``, counted from 0, the next one."""
        if position != self.position:
            self.position, self._iterator = position, None

    def __next__(self) -> Any:
        if self._iterator is None:
            self._start_pass()
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._start_pass()
            batch = next(self._iterator)
        self.position += 1
        return batch

    def _start_pass(self) -> None:
        place = (0, self.position) if self._endless else divmod(self.position, len(self.loader))
        self._iterator = seek(self.loader, *place)


def train_loaders(loop: Any) -> list[ReplayableLoader]:
    """Find the replayable loaders behind a train loop.

    Args:
        loop: A train loop.

    Returns:
        One, or those that a pair is made of, source first.
    """
    return _replayable(getattr(loop, 'dataloader', None))


def _replayable(loader: Any) -> list[ReplayableLoader]:
    if isinstance(loader, ReplayableLoader):
        return [loader]
    inside = (getattr(loader, name, None) for name in ('source', 'target', 'loader'))
    return [found for inner in inside if inner is not None for found in _replayable(inner)]
