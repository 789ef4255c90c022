from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmpretrain.registry import LOOPS
from torch import nn

from tl_plugin.stack.protocol import SOURCE, adaptation_model

from .build_loader import build_loader
from .memory import keep_freed_memory
from .replayable_loader import CyclingLoader, ReplayableLoader, is_endless, seek

_EPOCH_PLACE = 'epoch_place'
# Not named val..., train... or test...: mmengine logs what begins so as a metric.
_VALIDATED = 'iter_of_last_validation'


class _Resumable:
    """What both loops add: a loader that starts anywhere, and validations that are made up for.

    The stock loop by epoch starts a pass anew that was interrupted; the one by iteration reads all
    images from the beginning of the run again.
    """

    @classmethod
    def of(cls, loop: Any) -> Any:
        """The resumable equal of a stock loop that was built but not yet run."""
        own = cls.__new__(cls)
        vars(own).update(vars(loop))
        own._adopt_loader()
        return own

    def _adopt_loader(self) -> None:
        if not hasattr(self.dataloader, 'seek'):
            self.dataloader = ReplayableLoader.of(self.dataloader, self.runner.seed)
        model = adaptation_model(self.runner.model)
        if model is not None:
            # Now, and not in the first step, after all data have been read and hooks were at work.
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

    def _make_up_for_validation(self, now: int, end: int) -> None:
        """Checkpoints are written before the validation of their epoch, which may steer the run."""
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
        """Launches training."""
        keep_freed_memory(self.runner.model)
        self._batches_done = self._done_in_epoch()
        self.runner.call_hook('before_train')
        if not self._batches_done:
            self._make_up_for_validation(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self._is_validation_due(self._epoch, self._max_epochs):
                self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Iterates one epoch, or what a resumed run has left of it."""
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
        """How many batches of the epoch a resumed checkpoint has behind it."""
        length = len(self.dataloader)
        stock = {'epoch': self._epoch, 'start': self._epoch * length, 'length': length}
        place = self.runner.message_hub.get_info(_EPOCH_PLACE) if self._iter else None
        place = place or stock
        # Written at the end of an epoch, it still tells of the one before.
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
        """Launches training."""
        keep_freed_memory(self.runner.model)
        self.runner.call_hook('before_train')
        self._make_up_for_validation(self._iter, self._max_iters)
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
