"""Build data loaders that can start at any batch of any pass, with the same data each time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from torch.utils.data import DataLoader, IterableDataset

from tl_plugin.datasets.bad_data import naming_bad_data, no_images

from .bad_images import Fault, FaultyBatch, TolerantCollate, read_or_replace
from .seeds import ORDER, SOURCE_STREAM, seed_generators, seeds_at, seeds_from, stem_from


def build_loader(runner: Any, loader: Any, domain: str, seed_offset: int = 0) -> Any:
    """Build a loader; where that fails, say what is wrong with its data.

    Args:
        runner: The runner, whose seed and randomness the loader takes.
        loader: A config; a loader that is built already passes as it is.
        domain: What it is called, for messages: 'source'.
        seed_offset: Added to the runner's seed. Defaults to 0.

    Raises:
        ValueError: If there are no images, or an annotation can't be read.
        TypeError: If it is neither a config nor a loader.
    """
    if not isinstance(loader, dict):
        if not hasattr(loader, 'dataset'):
            raise TypeError(f'the {domain} loader must be a dict(dataset=...), got {loader!r}')
        return loader
    if not isinstance(loader.get('dataset'), dict):
        raise TypeError(
            f'the {domain} loader needs dataset=dict(type=...), got {loader.get("dataset")!r}'
        )
    try:
        with naming_bad_data():
            built = runner.build_dataloader(
                loader,
                seed=runner.seed + seed_offset,
                diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
            )
    except ValueError as error:
        raise ValueError(f'the {domain} data: {error}') from error
    if hasattr(built.dataset, '__len__') and len(built.dataset) == 0:
        raise ValueError(f'the {domain} data: {no_images(loader["dataset"])}')
    return built


class Draw(NamedTuple):
    """An index with the seeds of its random numbers.

    Args:
        index: Of the sample.
        seeds: For Python, numpy and torch.
    """

    index: Any
    seeds: list[int]


@dataclass(frozen=True)
class Draws:
    """The draws of a batch, as it is sent to a worker, which computes their seeds.

    Args:
        indices: Of the samples.
        positions: Of each in the pass over all ranks, so that two draws of one image differ.
        stem: What the seeds of this pass follow from.
    """

    indices: Sequence
    positions: Sequence[int]
    stem: int

    def __iter__(self) -> Iterator[Draw]:
        return map(Draw, self.indices, seeds_at(self.stem, self.positions))


class SampleReader:
    """Read each sample with random numbers of its own.

    Args:
        dataset: The data set to read.
        tries: How many other samples to try instead of an unreadable one; 0 raises its error.
    """

    def __init__(self, dataset: Any, tries: int = 0) -> None:
        self.dataset = dataset
        self.tries = tries

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_generators(*draw.seeds)
        if self.tries:
            return read_or_replace(self.dataset, draw.index, self.tries)
        return self.dataset[draw.index]


class ReplayableLoader(DataLoader):
    """A DataLoader whose batches are a function of seed, pass and position only.

    The images and their augmentation are the same for any number of workers, persistent or not.
    Skipped batches are never read: only their indices are drawn.

    Attributes:
        seed: Of all random numbers.
        stream: Keeps two loaders with one seed apart.
        tries: How many others to try instead of an unreadable image. Defaults to 0.
        on_faults: Called with the faults of each batch that has some.
    """

    @classmethod
    def of(cls, loader: Any, seed: int, stream: int = SOURCE_STREAM) -> Any:
        """Make the replayable equivalent of a loader.

        Args:
            loader: A DataLoader over indices. Any other loader is returned as it is, with a
                warning.
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
        """Make batch number ``batch`` of pass ``number`` the first of the next iteration.

        Args:
            number: Number of the pass, from 0. Later passes count on from it.
            batch: Number of the batch within the pass, from 0.
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
        """Give iterators the data set that reads by draws; everything else finds the original."""
        attributes = vars(self)
        dataset, collate = attributes['dataset'], attributes['collate_fn']
        attributes['dataset'] = SampleReader(dataset, self.tries)
        attributes['collate_fn'] = TolerantCollate(collate) if self.tries else collate
        try:
            yield
        finally:
            attributes.update(dataset=dataset, collate_fn=collate)


class DrawSampler:
    """Turn the indices of a pass into draws, from any batch on."""

    def __init__(self, loader: ReplayableLoader, indices: Any) -> None:
        self.loader, self.indices = loader, indices
        self.place = (0, 0)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator:
        # Iterators of torch ask twice when they begin, and have to get the same both times.
        number, skipped = self.place
        sampler = getattr(self.loader.batch_sampler, 'sampler', self.loader.sampler)
        set_epoch(self.loader, number)
        if isinstance(sampler, InfiniteSampler):
            # It goes on where it was left, but its position has to follow from the number alone.
            sampler.indices = sampler._indices_of_rank()
        # For samplers that shuffle by the global generator, as torch's own does.
        seed_generators(*seeds_from(self.loader.seed, ORDER, self.loader.stream, number))
        return self._draw(iter(self.indices), number, skipped)

    def _draw(self, batches: Iterator, number: int, skipped: int) -> Iterator:
        rank, world_size = get_dist_info()
        stem = stem_from(self.loader.seed, self.loader.stream, number)
        single = not self.loader._auto_collation
        position = rank
        for place, batch in enumerate(batches):
            indices = [batch] if single else batch
            end = position + world_size * len(indices)
            if place >= skipped:
                draws = Draws(indices, range(position, end, world_size), stem)
                yield next(iter(draws)) if single else draws
            position = end


def is_endless(loader: Any) -> bool:
    """Say whether a pass over a loader never ends: all positions are in its first pass then.

    Args:
        loader: A loader, perhaps with an attribute ``endless``.
    """
    if hasattr(loader, 'endless'):
        return loader.endless
    batch_sampler = getattr(loader, 'batch_sampler', None)
    samplers = (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None))
    return any(isinstance(sampler, InfiniteSampler) for sampler in samplers)


def set_epoch(loader: Any, epoch: int) -> None:
    """Set the number of the next pass in a loader's sampler, so that each has its own shuffle."""
    batch_sampler = getattr(loader, 'batch_sampler', None)
    for sampler in (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
            return


def seek(loader: Any, number: int, batch: int = 0) -> Iterator:
    """Iterate over a pass from a batch on; a loader that can't seek reads and drops those before.

    Args:
        loader: A :class:`ReplayableLoader`, something else with ``seek``, or any loader.
        number: Number of the pass, from 0.
        batch: Number of the first batch, from 0.
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
    """Repeat a loader endlessly, and reshuffle it each pass.

    The batch at a position is a function of the position alone, so that a resumed run goes on with
    the data that the uninterrupted one would have read.

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
        """Make batch number ``position``, counted from 0, the next one."""
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
