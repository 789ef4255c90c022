"""How far some work is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

#: Seconds between two lines on the same task, where there is no terminal.
LINE_INTERVAL = 10.0


class ProgressDisplay:
    """Show tasks that are under way. A context manager.

    On a terminal each task has a bar, and the whole has one above them. Elsewhere there is a line
    at the start and at the end of a task, and one every :data:`LINE_INTERVAL` seconds.

    Args:
        total: Number of tasks. None for a single task, which has no bar above it.
        stream: Where to. Defaults to None, standard output.
        name: Of the whole.
    """

    def __init__(
        self, total: int | None = None, stream: TextIO | None = None, name: str = ''
    ) -> None:
        self.total, self.done = total, 0
        self._stream = sys.stdout if stream is None else stream
        self._began = time.monotonic()
        self._last: dict[str, float] = {}
        self._text: dict[str, str] = {}
        self._tasks: dict[str, Any] = {}
        self._left: float | None = None
        self._bars = _rich_progress(self._stream) if self._stream.isatty() else None
        if self._bars and total is not None:
            self._tasks[''] = self._bars.add_task(name, total=total, text=self._count())

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars:
            self._bars.stop()

    def start(self, label: str, why: str = '') -> None:
        """Show that a task begins.

        Args:
            label: Its name.
            why: Why it begins again, where that needs to be said. Defaults to ''.
        """
        text = f'starting: {why}' if why else 'starting'
        if self._bars:
            self._tasks[label] = self._bars.add_task(label, total=None, text='starting')
            if why:
                self._bars.console.print(f'{label}: {text}', highlight=False, markup=False)
        elif self.total is not None:
            self._print(label, text)
            self._text[label] = 'starting'

    def update(self, label: str, text: str, completed: int = 0, total: int = 0) -> None:
        """Show how far a task is.

        Args:
            label: What it was started as.
            text: How far, in words.
            completed: Steps that are done.
            total: Steps in all; 0 if that isn't known.
        """
        if self._bars:
            steps = dict(total=total or None, completed=completed)
            self._bars.update(self._tasks[label], text=text, **steps)
            self._update_whole()
        elif text != self._text.get(label) and self._waited(label) >= LINE_INTERVAL:
            whole = '' if self._left is None else f'; the whole about {duration(self._left)}'
            self._print(label, text + whole)
            self._text[label] = text

    def show_left(self, seconds: float | None) -> None:
        """Set the estimate of the time that the whole still takes.

        Args:
            seconds: None where there is no telling.
        """
        self._left = seconds
        if self._bars:
            self._update_whole()

    def finish(self, label: str, text: str, failed: bool = False) -> None:
        """Show how a task has ended, also one that was never started."""
        if not self._bars:
            self._print(label, text)
            self.done += 1
            return
        from rich.markup import escape

        if label in self._tasks:
            self._bars.remove_task(self._tasks.pop(label))
        mark = '[red]✗[/red]' if failed else '[green]✓[/green]'
        line = f'{mark} [bold]{escape(label)}[/bold] {escape(text)}'
        self._bars.console.print(line, highlight=False)
        self.done += 1
        self._update_whole()

    def _print(self, label: str, text: str) -> None:
        self._last[label], self._text[label] = time.monotonic(), text
        count = '' if self.total is None else f'[{min(self.done + 1, self.total)}/{self.total}] '
        print(f'{count}{label}: {text}', file=self._stream, flush=True)

    def _waited(self, label: str) -> float:
        return time.monotonic() - self._last.get(label, self._began)

    def _update_whole(self) -> None:
        if '' in self._tasks:
            self._bars.update(self._tasks[''], completed=self.done, text=self._count())

    def _count(self) -> str:
        left = '' if self._left is None else f', about {duration(self._left)} left'
        return f'{self.done}/{self.total} runs, {duration(time.monotonic() - self._began)}{left}'


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far some work is.

    Args:
        what: Its name.
        total: Number of items.

    Yields:
        A function to call with the number of items that were finished since the last call.
    """
    began, done = time.monotonic(), 0
    with ProgressDisplay(stream=sys.stderr) as display:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            remaining = (time.monotonic() - began) / max(done, 1) * (total - done)
            display.update(what, f'{done} of {total}, {duration(remaining)} left', done, total)

        display.start(what)
        yield advance
        display.finish(what, f'{done} in {duration(time.monotonic() - began)}')


def duration(seconds: float) -> str:
    """Write a time in minutes and seconds.

    >>> duration(59.4), duration(200)
    ('59 s', '3 min 20 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'


def _rich_progress(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # All of it in 80 columns.
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(10),
        TextColumn('{task.fields[text]}'),
        console=Console(file=stream),
    )
