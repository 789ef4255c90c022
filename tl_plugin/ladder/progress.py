"""What a run writes while it trains: how far it is, and mmengine's record of its metrics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from tl_plugin.reliability.files import read_json, write_json
from tl_plugin.reporting.progress import duration

PROGRESS_NAME = 'progress.json'


class Progress(NamedTuple):
    """A moment of a run.

    Args:
        phase: ``'starting'``, ``'training'`` or ``'testing'``.
        iteration: Iterations done.
        max_iterations: Iterations in all.
        epoch: Epoch that is running, from 1; 0 if the run counts iterations alone.
        max_epochs: Epochs in all, likewise.
        loss: Of the last iteration; None before the first.
        elapsed: Seconds since the run's process was started, those of interrupted attempts
            included.
        trained: Those of them in which it trained.
        remaining: Estimated seconds of training that are left; None before the second iteration.
    """

    phase: str = 'starting'
    iteration: int = 0
    max_iterations: int = 0
    epoch: int = 0
    max_epochs: int = 0
    loss: float | None = None
    elapsed: float = 0.0
    trained: float = 0.0
    remaining: float | None = None

    def in_words(self) -> str:
        """Describe it for somebody who watches.

        >>> Progress('training', 30, 60, 2, 4, 0.5, 12.0, 9.0, 11.6).in_words()
        'epoch 2/4, loss 0.500, 12 s left'
        """
        if self.phase != 'training' or not self.iteration:
            return self.phase
        parts = [f'iteration {self.iteration}/{self.max_iterations}']
        if self.max_epochs:
            parts = [f'epoch {self.epoch}/{self.max_epochs}']
        if self.loss is not None:
            parts.append(f'loss {self.loss:.3f}')
        if self.remaining is not None:
            parts.append(f'{duration(self.remaining)} left')
        return ', '.join(parts)


def read_progress(folder: Path) -> Progress:
    """Return the last progress that the run in a folder has written."""
    content = read_json(folder / PROGRESS_NAME)
    return Progress(**content) if content else Progress()


def read_scalars(folder: Path) -> tuple[list[dict], list[dict]]:
    """Read a run's ``scalars.json``, those of resumed attempts merged.

    Args:
        folder: The run's folder.

    Returns:
        Training records and validation records, each by rising ``step``. Where an attempt repeats a
        step of an earlier one, the later one counts.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            (training if 'loss' in record else validation)[record['step']] = record
    return tuple([found[step] for step in sorted(found)] for found in (training, validation))


class ProgressHook(Hook):
    """Write the run's progress into ``progress.json``, at most twice a second.

    Args:
        folder: The run's folder.
        began: When its process was started, in seconds since the epoch.
        before: The progress of earlier, interrupted attempts, whose time counts.
    """

    priority = 'VERY_LOW'

    def __init__(self, folder: Path, began: float, before: Progress) -> None:
        self.folder = folder
        self.trained = before.trained
        # The clock of the wall alone is that of the process which has started this one.
        self._started = time.monotonic() - (time.time() - began) - before.elapsed
        self._written = 0.0
        self._first: tuple[float, int] | None = None
        self._before, self._training = before.trained, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return time.monotonic() - self._started

    def before_train(self, runner: Any) -> None:
        """Start the clock of training."""
        self._training = time.monotonic()
        self._write(runner, 'training')

    def after_train(self, runner: Any) -> None:
        """Stop the clock of training."""
        self._count()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Write, unless that was done a moment ago."""
        if self._first is None:
            # What comes once, before the first step, such as a cache, says nothing of the others.
            self._first = (time.monotonic(), runner.iter + 1)
        if time.monotonic() - self._written > 0.5:
            loss = (outputs or {}).get('loss')
            self._write(runner, 'training', None if loss is None else float(loss))

    def before_test(self, runner: Any) -> None:
        """Write that training is over."""
        self._write(runner, 'testing')

    def _write(self, runner: Any, phase: str, loss: float | None = None) -> None:
        if phase == 'training':
            self._count()
        done = runner.iter + (loss is not None)
        progress = Progress(
            phase=phase,
            iteration=done,
            max_iterations=runner.max_iters,
            epoch=min(runner.epoch + 1, _max_epochs(runner)),
            max_epochs=_max_epochs(runner),
            loss=loss,
            elapsed=self.elapsed,
            trained=self.trained,
            remaining=self._remaining(done, runner.max_iters),
        )
        write_json(self.folder / PROGRESS_NAME, progress._asdict())
        self._written = time.monotonic()

    def _count(self) -> None:
        self.trained = self._before + time.monotonic() - self._training

    def _remaining(self, done: int, total: int) -> float | None:
        if self._first is None or done <= self._first[1]:
            return None
        start, first = self._first
        return (time.monotonic() - start) / (done - first) * (total - done)


def _max_epochs(runner: Any) -> int:
    # The stock loop by iteration has one epoch, which means nothing.
    return 0 if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.max_epochs
