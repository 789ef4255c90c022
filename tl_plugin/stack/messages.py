"""Pieces of messages that many errors need, and loggers that stay quiet for a while."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


def short_list(names: Sequence[str], limit: int = 8) -> str:
    """List names, the first few of many.

    Example:
        >>> short_list(['a', 'b', 'c'], limit=2)
        'a, b, ... (1 more)'
    """
    more = f', ... ({len(names) - limit} more)' if len(names) > limit else ''
    return (', '.join(map(str, names[:limit])) or 'none') + more


def did_you_mean(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> str:
    """Ask for the known names that are spelled most like a name that was given.

    Args:
        name: What was given.
        known: What there is.
        count: Names to suggest at most. Defaults to 1.
        cutoff: How alike they have to be, in [0, 1]. Defaults to 0.6.

    Returns:
        A sentence with a space before it, or '' where nothing is near.

    Example:
        >>> did_you_mean('fine_tnue', ['fine_tune', 'dann'])
        " Did you mean 'fine_tune'?"
    """
    near = difflib.get_close_matches(str(name), [str(each) for each in known], count, cutoff)
    return f' Did you mean {" or ".join(map(repr, near))}?' if near else ''


@contextmanager
def quiet(loggers: Iterable[logging.Logger], level: int = logging.WARNING) -> Iterator[None]:
    """Let loggers report nothing below a level inside, and as before afterwards."""
    loggers = list(loggers)
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, own in zip(loggers, before):
            logger.setLevel(own)
