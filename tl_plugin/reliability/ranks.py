"""Failures of distributed runs: one rank's error reaches all, and a lost rank is named."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from mmengine.dist import all_gather_object, get_dist_info

# How gloo, NCCL and the rendezvous store report that a process doesn't answer.
_NO_ANSWER = re.compile(
    r'connection (closed|reset|refused|was likely closed)|broken pipe|timed? ?out|'
    r'remote process (has )?(exited|terminated)|failed to recv|socket',
    re.IGNORECASE,
)


def on_all_ranks(function: Callable[[], Any]) -> list:
    """Call a function on every rank; if it fails on one of them, raise its error on all.

    A rank that raises alone leaves the others waiting, at their next collective, until that times
    out. Has to be called on all ranks.

    Args:
        function: What to call. Its return value must be picklable.

    Returns:
        The return values, by rank.

    Raises:
        Exception: Its own error on a rank that failed, on the others that of the first one.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    outcomes = all_gather_object((result, None if error is None else _picklable(error)))
    if error is not None:
        raise error
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [outcome for outcome, _ in outcomes]


def on_main_process(function: Callable[[], Any]) -> Any:
    """Call a function on the first rank; return its result, or raise its error, on every rank.

    Args:
        function: What to call. Its return value must be picklable.

    Returns:
        The return value, on every rank.

    Raises:
        Exception: Its error, on every rank.
    """
    return on_all_ranks(lambda: function() if get_dist_info()[0] == 0 else None)[0]


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # its arguments can't be pickled, or its constructor takes others
        return RuntimeError(f'rank {get_dist_info()[0]}: {type(error).__name__}: {error}')


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Turn a communication error after the loss of a rank into one that says what to do.

    A process that dies closes its connections, so that the others notice at their next collective.
    A process that hangs is noticed after ``env_cfg.dist_cfg.timeout`` seconds.

    Raises:
        RuntimeError: If a process of the run can't be reached any more.
    """
    try:
        yield
    except RuntimeError as error:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not _NO_ANSWER.search(str(error)):
            raise
        raise RuntimeError(
            f'rank {dist.get_rank()} lost contact with another of the {dist.get_world_size()} '
            'processes: it has died or hangs, and its own message says why. The last checkpoint is '
            'whole: run the same command with --resume. MAX_RESTARTS=3 bash tools/dist_train.sh '
            'CONFIG PROCESSES --resume restarts the run automatically'
        ) from error
