from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmpretrain.datasets import MultiView
from torch.utils.data import DataLoader

from tl_plugin.datasets.bad_data import check_batches
from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.reliability.replayable_loader import CyclingLoader, is_endless, seek, set_epoch


def target_domains(dataset: Any) -> tuple[str, ...]:
    """Name the parts of a target batch: the images, and a strong view where the data give two.

    Args:
        dataset: The target data set.
    """
    pipelines = [getattr(each, 'pipeline', None) for each in inner_datasets(dataset)]
    steps = [step for pipeline in pipelines for step in getattr(pipeline, 'transforms', [])]
    two = any(isinstance(step, MultiView) for step in steps)
    return ('target', 'target_strong') if two else ('target',)


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
        endless: Whether a pass over the source never ends.
        domains: Of which each batch has images, see :meth:`AdaptationModel.check_domains`.
    """

    def __init__(self, source: DataLoader, target: DataLoader) -> None:
        for name, loader in (('source', source), ('target', target)):
            check_batches(name, loader)
        self.source = source
        self.target = CyclingLoader(target)
        self.dataset = source.dataset
        self.batch_size = source.batch_size
        self.sampler = _PairedSampler(self)
        self.endless = is_endless(source)
        self.domains = ('source', *target_domains(target.dataset))
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the next pass over the source, counted from 0."""
        self._epoch, self._batch = epoch, 0
        set_epoch(self.source, epoch)

    def seek(self, number: int, batch: int = 0) -> None:
        """Makes batch number ``batch`` of pass ``number`` over the source the next one."""
        self._epoch, self._batch = number, batch

    def __iter__(self) -> Iterator[dict]:
        number, first = self._epoch, self._batch
        # So that passes go on where nobody counts them.
        self._epoch, self._batch = number + 1, 0
        self.target.seek(number * len(self.source) + first)
        for batch in seek(self.source, number, first):
            yield {'source': batch, 'target': next(self.target)}


class _PairedSampler:
    def __init__(self, loader: PairedLoader) -> None:
        self.loader = loader

    def set_epoch(self, epoch: int) -> None:
        self.loader.set_epoch(epoch)
