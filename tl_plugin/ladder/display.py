"""Shows the climb: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from .progress import Progress


def make_display(total: int) -> Display:
    """Return the display that suits standard output.

    Args:
        total: Number of runs.
    """
    return BarDisplay(total) if sys.stdout.isatty() else LineDisplay(total)


def describe(progress: Progress) -> str:
    """Put a moment of a run into words.

    >>> describe(Progress('training', 30, 60, 2, 4, 0.5, 12.0, 11.6))
    'epoch 2/4, loss 0.500, 12 s left'
    """
    if progress.phase != 'training' or not progress.iteration:
        return progress.phase
    where = f'iteration {progress.iteration}/{progress.max_iterations}'
    if progress.max_epochs:
        where = f'epoch {progress.epoch}/{progress.max_epochs}'
    parts = [where]
    if progress.loss is not None:
        parts.append(f'loss {progress.loss:.3f}')
    if progress.remaining is not None:
        parts.append(f'{_duration(progress.remaining)} left')
    return ', '.join(parts)


class Display:
    """What a climb tells its watcher. A context manager.

    Args:
        total: Number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def start(self, label: str) -> None:
        """A run begins."""

    def update(self, label: str, progress: Progress) -> None:
        """It is so far."""

    def finish(self, label: str, text: str) -> None:
        """It has ended well."""

    def fail(self, label: str, text: str) -> None:
        """It has not."""


class LineDisplay(Display):
    """Plain lines, one at the start of a run, one at its end, and one every ten seconds."""

    interval = 10.0

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._last: dict[str, float] = {}
        self._text: dict[str, str] = {}

    def start(self, label: str) -> None:
        """A run begins."""
        self._print(label, 'starting')

    def update(self, label: str, progress: Progress) -> None:
        """It is so far; says so now and then."""
        text = describe(progress)
        waited = time.monotonic() - self._last.get(label, 0.0)
        if text != self._text.get(label) and waited >= self.interval:
            self._print(label, text)

    def finish(self, label: str, text: str) -> None:
        """It has ended well."""
        self._print(label, text)
        self.done += 1

    def fail(self, label: str, text: str) -> None:
        """It has not."""
        self.finish(label, text)

    def _print(self, label: str, text: str) -> None:
        self._last[label], self._text[label] = time.monotonic(), text
        print(f'[{min(self.done + 1, self.total)}/{self.total}] {label}: {text}', flush=True)


class BarDisplay(Display):
    """A bar for the climb and one for each run that is under way."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(total)
        # All of it in 80 columns.
        self._bars = Progress(
            TextColumn('{task.description}'), BarColumn(10), TextColumn('{task.fields[text]}')
        )
        self._started = time.monotonic()
        self._whole = self._bars.add_task('ladder', total=total, text=self._count())
        self._runs = {}

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(self, *exception) -> None:
        self._bars.stop()

    def start(self, label: str) -> None:
        """A run begins."""
        self._runs[label] = self._bars.add_task(label, total=None, text='starting')

    def update(self, label: str, progress: Progress) -> None:
        """It is so far."""
        self._bars.update(
            self._runs[label],
            total=progress.max_iterations or None,
            completed=progress.iteration,
            text=describe(progress),
        )
        self._bars.update(self._whole, completed=self.done, text=self._count())

    def finish(self, label: str, text: str) -> None:
        """It has ended well."""
        self._end(label, '[green]✓[/green]', text)

    def fail(self, label: str, text: str) -> None:
        """It has not."""
        self._end(label, '[red]✗[/red]', text)

    def _end(self, label: str, mark: str, text: str) -> None:
        from rich.markup import escape

        if label in self._runs:
            self._bars.remove_task(self._runs.pop(label))
        self._bars.console.print(
            f'{mark} [bold]{escape(label)}[/bold] {escape(text)}', highlight=False
        )
        self.done += 1
        self._bars.update(self._whole, completed=self.done, text=self._count())

    def _count(self) -> str:
        return f'{self.done}/{self.total} runs, {_duration(time.monotonic() - self._started)}'


def _duration(seconds: float) -> str:
    """
    >>> _duration(59.4), _duration(200)
    ('59 s', '3 min 20 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
