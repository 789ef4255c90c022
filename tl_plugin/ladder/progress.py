"""How far a run is: written by the run itself, read by whoever watches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

from tl_plugin.reliability.files import read_json, write_json

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
        elapsed: Seconds, those of interrupted attempts included.
        remaining: Estimated seconds of training that are left; None before the first iteration.
    """

    phase: str = 'starting'
    iteration: int = 0
    max_iterations: int = 0
    epoch: int = 0
    max_epochs: int = 0
    loss: float | None = None
    elapsed: float = 0.0
    remaining: float | None = None


def read_progress(folder: Path) -> Progress:
    """Return what the run in a folder last said of itself."""
    content = read_json(folder / PROGRESS_NAME)
    return Progress(**content) if content else Progress()


class ProgressHook(Hook):
    """Writes the run's progress into ``progress.json``, at most twice a second.

    Args:
        folder: The run's folder.
        elapsed: Seconds that earlier, interrupted attempts took.
    """

    priority = 'VERY_LOW'

    def __init__(self, folder: Path, elapsed: float = 0.0) -> None:
        self.folder = folder
        self._started = time.monotonic() - elapsed
        self._written = 0.0
        self._first: tuple[float, int] | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt began."""
        return time.monotonic() - self._started

    def before_train(self, runner: Any) -> None:
        """Starts the clock of the estimate."""
        self._first = (time.monotonic(), runner.iter)
        self._write(runner, 'training')

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Writes, unless it just did."""
        if time.monotonic() - self._written > 0.5:
            loss = (outputs or {}).get('loss')
            self._write(runner, 'training', None if loss is None else float(loss))

    def before_test(self, runner: Any) -> None:
        """Says that training is over."""
        self._write(runner, 'testing')

    def _write(self, runner: Any, phase: str, loss: float | None = None) -> None:
        done = runner.iter + (loss is not None)
        progress = Progress(
            phase=phase,
            iteration=done,
            max_iterations=runner.max_iters,
            epoch=min(runner.epoch + 1, _max_epochs(runner)),
            max_epochs=_max_epochs(runner),
            loss=loss,
            elapsed=self.elapsed,
            remaining=self._remaining(done, runner.max_iters),
        )
        write_json(self.folder / PROGRESS_NAME, progress._asdict())
        self._written = time.monotonic()

    def _remaining(self, done: int, total: int) -> float | None:
        start, first = self._first
        if done <= first:
            return None
        return (time.monotonic() - start) / (done - first) * (total - done)


def _max_epochs(runner: Any) -> int:
    # By iteration, the stock loop has one epoch that stands for nothing.
    return 0 if isinstance(runner.train_loop, IterBasedTrainLoop) else runner.max_epochs
