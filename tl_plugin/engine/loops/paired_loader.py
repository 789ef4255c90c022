from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader


class CyclingLoader:
    """Goes round a loader for ever and reshuffles it each pass.

    Which batch comes at a position is a function of the position alone, so that a resumed run goes
    on with the data that the uninterrupted one would have seen.

    Args:
        loader: Anything with a length that can be iterated; its sampler's ``set_epoch`` is called
            with the number of the pass.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.position = 0
        self._iterator: Iterator | None = None
        # A pass of an endless sampler never ends, so all positions are in the first.
        self._endless = isinstance(getattr(loader, 'sampler', None), InfiniteSampler)

    def __iter__(self) -> Iterator:
        return self

    def seek(self, position: int) -> None:
        """Makes batch number ``position``, counted from 0, the next one."""
        if position == self.position:
            return
        offset = self._start_pass(position)
        for _ in range(offset):
            next(self._iterator)
        self.position = position

    def __next__(self) -> Any:
        if self._iterator is None:
            self._start_pass(self.position)
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._start_pass(self.position)
            batch = next(self._iterator)
        self.position += 1
        return batch

    def _start_pass(self, position: int) -> int:
        number, offset = (0, position) if self._endless else divmod(position, len(self.loader))
        set_epoch(self.loader, number)
        self._iterator = iter(self.loader)
        return offset


class PairedLoader:
    """A source and a target loader that stand in for one loader.

    A pass is a pass over the source; beside each source batch comes the next target batch. The
    target goes round by itself: a shorter one repeats within the pass, a longer one goes on in the
    next. Each is reshuffled each of its passes and sharded over ranks by its own sampler.

    Args:
        source: Loader of the labelled domain.
        target: Loader of the field domain.

    Raises:
        ValueError: If one of them yields no batch.

    Attributes:
        dataset: The source's, as stock loops and hooks expect of a loader.
        sampler: Offers ``set_epoch``, for mmengine's ``DistSamplerSeedHook``.
    """

    def __init__(self, source: DataLoader, target: DataLoader) -> None:
        for name, loader in (('source', source), ('target', target)):
            if len(loader) == 0:
                raise ValueError(
                    f'the {name} loader yields no batch: its data set has {len(loader.dataset)} '
                    f'images, its batch size is {loader.batch_size} and drop_last is '
                    f'{loader.drop_last}; give it more images, a smaller batch or drop_last=False'
                )
        self.source = source
        self.target = CyclingLoader(target)
        self.dataset = source.dataset
        self.batch_size = source.batch_size
        self.sampler = _PairedSampler(self)
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the next pass over the source, counted from 0."""
        self._epoch = epoch
        set_epoch(self.source, epoch)

    def __iter__(self) -> Iterator[dict]:
        self.target.seek(self._epoch * len(self.source))
        for batch in self.source:
            yield {'source': batch, 'target': next(self.target)}
        # So that passes go on where nobody counts them.
        self._epoch += 1


class _PairedSampler:
    def __init__(self, loader: PairedLoader) -> None:
        self.loader = loader

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tells a loader's sampler which pass comes, so that each has its own shuffle."""
    batch_sampler = getattr(loader, 'batch_sampler', None)
    for sampler in (getattr(loader, 'sampler', None), getattr(batch_sampler, 'sampler', None)):
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
            return
