"""Bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 10.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far some work is.

    Args:
        what: Its name.
        total: Number of images.

    Yields:
        A function to call with the number of images that were finished since the last call.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ('{task.description}', BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(what, total=total)
            yield lambda count: bars.advance(task, count)
        return
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            print(f'{what}: {done} of {total}', file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - started
    print(f'{what}: {done} in {seconds:.0f} s', file=sys.stderr, flush=True)
