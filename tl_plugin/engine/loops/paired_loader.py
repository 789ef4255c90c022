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


class _DomainLoader:
    """Iterate over one loader from any batch of any pass, and name the domains of a batch."""

    def __init__(self, loader: DataLoader, domains: tuple[str, ...]) -> None:
        self.loader = loader
        self.dataset = loader.dataset
        self.batch_size = loader.batch_size
        self.sampler = self
        self.endless = is_endless(loader)
        self.domains = domains
        self._epoch = self._batch = 0

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass, counted from 0."""
        self._epoch, self._batch = epoch, 0
        set_epoch(self.loader, epoch)

    def seek(self, number: int, batch: int = 0) -> None:
        """Make batch number ``batch`` of pass ``number`` the next one."""
        self._epoch, self._batch = number, batch

    def _next_place(self) -> tuple[int, int]:
        """Return the start of this pass, and advance to the next one."""
        place = (self._epoch, self._batch)
        self._epoch, self._batch = self._epoch + 1, 0
        return place


class TargetLoader(_DomainLoader):
    """A loader whose batches are marked as the target's, so that their labels are dropped.

    Args:
        loader: A loader of target images.

    Attributes:
        sampler: Offers ``set_epoch``, for mmengine's ``DistSamplerSeedHook``.
        endless: Whether a pass never ends.
        domains: The domains that each batch has images of.
    """

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader, target_domains(loader.dataset))

    def __iter__(self) -> Iterator[dict]:
        for batch in seek(self.loader, *self._next_place()):
            yield {'target': batch}


class PairedLoader(_DomainLoader):
    """A source and a target loader that stand in for one loader.

    A pass is a pass over the source; beside each source batch comes the next target batch. The
    target cycles independently: a shorter one repeats within the pass, a longer one goes on in the
    next. Each is reshuffled each of its passes and sharded over ranks by its own sampler.

    Args:
        source: Loader of the labelled domain.
        target: Loader of the target domain.

    Raises:
        ValueError: If one of them yields no batch.

    Attributes:
        dataset: The source's, as stock loops and hooks expect of a loader.
        sampler: Offers ``set_epoch``, for mmengine's ``DistSamplerSeedHook``.
        endless: Whether a pass over the source never ends.
        domains: The domains that each batch has images of, see
            :meth:`AdaptationModel.check_domains`.
    """

    def __init__(self, source: DataLoader, target: DataLoader) -> None:
        for name, loader in (('source', source), ('target', target)):
            check_batches(name, loader)
        super().__init__(source, ('source', *target_domains(target.dataset)))
        self.source = source
        self.target = CyclingLoader(target)

    def __iter__(self) -> Iterator[dict]:
        number, first = self._next_place()
        self.target.seek(number * len(self.source) + first)
        for batch in seek(self.source, number, first):
            yield {'source': batch, 'target': next(self.target)}


def train_datasets(loop: Any) -> dict[str, Any]:
    """Return the data sets of a train loop.

    Args:
        loop: Any train loop that is built.

    Returns:
        Domain -> data set. What isn't adapted to a target is all 'source'.
    """
    loader = loop.dataloader
    if isinstance(loader, TargetLoader):
        return {'target': loader.dataset}
    found = {'source': loader.dataset}
    if isinstance(loader, PairedLoader):
        found['target'] = loader.target.loader.dataset
    return found
