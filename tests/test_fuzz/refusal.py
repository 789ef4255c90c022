"""What counts as a refusal: the documented errors, the culprit's name in them, no hang."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

#: Every error that malformed input may end in. ``BrokenCheckpointError`` is a ValueError.
DOCUMENTED = (ValueError, TypeError, KeyError, FileNotFoundError, pickle.UnpicklingError)
#: Of how many times as many examples a run consists.
TIMES = int(os.environ.get('TL_PLUGIN_FUZZ', '1'))
#: No input takes longer than that, in seconds; most take milliseconds.
PATIENCE = 60

#: How many cases each kind had, and how many were to be had at least.
seen: Counter = Counter()
promised: dict[str, int] = {}


def examples(count: int, kind: str) -> settings:
    """So many examples of a kind of input, always the same ones."""
    promised[kind] = promised.get(kind, 0) + count * TIMES
    return settings(
        max_examples=count * TIMES,
        derandomize=True,
        database=None,
        deadline=None,  # a loaded machine is no failure; `refused` looks for hangs
        suppress_health_check=list(HealthCheck),
    )


def refused(kind: str, call: Callable[[], Any], *culprits: Any) -> str:
    """Checks that a call ends in a documented error whose message names one of the culprits.

    Args:
        kind: Of the input, for the count.
        call: What is to be refused.
        *culprits: Any of them is enough: the option's name, the value, the file.

    Returns:
        The message.
    """
    seen[kind] += 1
    with _no_hang():
        try:
            found = call()
        except DOCUMENTED as error:
            message = str(error)
        else:
            pytest.fail(f'accepted, of {culprits}: {found!r}')
    wanted = [str(culprit) for culprit in culprits]
    assert any(culprit in message for culprit in wanted), f'{wanted} not in: {message}'
    return message


@contextmanager
def _no_hang():
    def stop(signum, frame):
        raise AssertionError(f'no answer within {PATIENCE} seconds')

    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
