"""Train loops that resume exactly, from any iteration, without reading old images again."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmpretrain.registry import LOOPS
from torch import nn

from tl_plugin.stack.protocol import SOURCE, adaptation_model

from .replayable_loader import CyclingLoader, ReplayableLoader, build_loader, is_endless, seek

_EPOCH_PLACE = 'epoch_place'
# Not named val..., train... or test...: mmengine logs what begins so as a metric.
_VALIDATED = 'iter_of_last_validation'
# glibc's numbers for mallopt(), which no header gives to Python.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Blocks up to this size come from the heap; one activation of a large batch is far below.
_LARGEST = 2**30
_MALLOC_SETTINGS = (
    'MALLOC_MMAP_THRESHOLD_',
    'MALLOC_TRIM_THRESHOLD_',
    'MALLOC_MMAP_MAX_',
    'GLIBC_TUNABLES',
)


class _Resumable:
    """Common parts of both loops: a loader that starts anywhere, and missed validations.

    The stock loop by epoch restarts a pass that was interrupted; the one by iteration reads all
    images from the beginning of the run again.
    """

    @classmethod
    def of(cls, loop: Any) -> Any:
        """Make the resumable equivalent of a stock loop that was built but not yet run."""
        own = cls.__new__(cls)
        vars(own).update(vars(loop))
        own._adopt_loader()
        return own

    def _adopt_loader(self) -> None:
        if not hasattr(self.dataloader, 'seek'):
            self.dataloader = ReplayableLoader.of(self.dataloader, self.runner.seed)
        model = adaptation_model(self.runner.model)
        if model is not None:
            # Now, before the hooks run and the data are read.
            model.check_domains(getattr(self.dataloader, 'domains', (SOURCE,)))

    def _validate(self) -> None:
        self.runner.message_hub.update_info(_VALIDATED, self._iter)
        self.runner.val_loop.run()

    def _is_validation_due(self, now: int, end: int) -> bool:
        self._decide_current_val_interval()
        return (
            self.runner.val_loop is not None
            and now >= self.val_begin
            and (now % self.val_interval == 0 or now == end)
        )

    def _run_missed_validation(self, now: int, end: int) -> None:
        """Run the validation that follows a checkpoint in the uninterrupted run, if it is due."""
        done = self.runner.message_hub.get_info(_VALIDATED, -1)
        if self._iter > 0 and done < self._iter and self._is_validation_due(now, end):
            print_log(
                f'The checkpoint was written before the validation at iteration {self._iter}, '
                'which follows now.',
                logger='current',
            )
            self._validate()


@LOOPS.register_module()
class ResumableEpochTrainLoop(_Resumable, EpochBasedTrainLoop):
    """mmengine's ``EpochBasedTrainLoop``, which a checkpoint from mid-epoch resumes exactly.

    Args:
        runner: The runner.
        dataloader: As in the stock loop.
        max_epochs: As in the stock loop.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in the stock loop.
    """

    def __init__(self, runner: Any, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        dataloader = build_loader(runner, dataloader, 'train')
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self._adopt_loader()

    def _adopt_loader(self) -> None:
        super()._adopt_loader()
        if is_endless(self.dataloader):
            raise ValueError(
                'an epoch is a pass over the data, which the InfiniteSampler of train_dataloader '
                'never ends: train by iteration (train_cfg = dict(by_epoch=False, max_iters=...)), '
                "or set train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)"
            )

    def run(self) -> nn.Module:
        """Launch training."""
        keep_freed_memory(self.runner.model)
        self._batches_done = self._done_in_epoch()
        self.runner.call_hook('before_train')
        if not self._batches_done:
            self._run_missed_validation(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self._is_validation_due(self._epoch, self._max_epochs):
                self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of it in a resumed run."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done, self._batches_done = self._batches_done, 0
        place = {'epoch': self._epoch, 'start': self._iter - done, 'length': len(self.dataloader)}
        self.runner.message_hub.update_info(_EPOCH_PLACE, place)
        for idx, data_batch in enumerate(seek(self.dataloader, self._epoch, done), done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _done_in_epoch(self) -> int:
        """Return how many batches of the epoch were done when the checkpoint was written."""
        length = len(self.dataloader)
        stock = {'epoch': self._epoch, 'start': self._epoch * length, 'length': length}
        place = self.runner.message_hub.get_info(_EPOCH_PLACE) if self._iter else None
        place = place or stock
        # At the end of an epoch it is that of the epoch before.
        done = self._iter - place['start'] if place['epoch'] == self._epoch else 0
        if done and (place['length'] != length or not 0 <= done <= length):
            print_log(
                f'The checkpoint is from the middle of epoch {self._epoch + 1}, which now has '
                f'{length} batches and had another number: the epoch starts with its first batch.',
                logger='current',
                level=logging.WARNING,
            )
            return 0
        return done


@LOOPS.register_module()
class ResumableIterTrainLoop(_Resumable, IterBasedTrainLoop):
    """mmengine's ``IterBasedTrainLoop``, which resumes exactly without reading old images again.

    Args:
        runner: The runner.
        dataloader: As in the stock loop.
        max_iters: As in the stock loop.
        **kwargs: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in the stock loop.
    """

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        dataloader = build_loader(runner, dataloader, 'train')
        super().__init__(runner, dataloader, max_iters, **kwargs)
        self._adopt_loader()

    def _adopt_loader(self) -> None:
        super()._adopt_loader()
        # mmengine's own iterator has started its workers by now, and sleeps two seconds at each
        # restart.
        self.dataloader_iterator = CyclingLoader(self.dataloader)

    def run(self) -> nn.Module:
        """Launch training."""
        keep_freed_memory(self.runner.model)
        self.runner.call_hook('before_train')
        self._run_missed_validation(self._iter, self._max_iters)
        self.runner.call_hook('before_train_epoch')
        self.dataloader_iterator.seek(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            if self._is_validation_due(self._iter, self._max_iters):
                self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


def keep_freed_memory(model: nn.Module) -> bool:
    """Let the C library keep large blocks that are freed, where a model trains on a CPU.

    By itself glibc gives every block above 32 MB back to the system, and has it zeroed page by page
    when the next step asks for it again: an activation of 48 images is above, one of 24 is not, and
    a joint batch of two domains takes a fifth longer than its arithmetic. The process keeps what it
    has needed at its peak. Whoever has set glibc's own variables (``MALLOC_MMAP_THRESHOLD_`` and
    the like) is left alone, and so are other C libraries.

    Args:
        model: The model that trains.

    Returns:
        Whether the C library keeps them from now on.
    """
    on_cpu = all(value.device.type == 'cpu' for value in model.parameters())
    if not on_cpu or any(name in os.environ for name in _MALLOC_SETTINGS):
        return False
    return _set_thresholds()


@functools.cache
def _set_thresholds() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
