"""Work of which all processes share the end: where one of them fails, all do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from mmengine.dist import all_gather_object, get_dist_info


def on_all_ranks(function: Callable[[], Any]) -> list:
    """Call a function on every rank; where one of them fails, all raise its error.

    A rank that raises by itself leaves the others waiting, at their next exchange, until that times
    out. Call it on all ranks.

    Args:
        function: What to do. What it returns must pickle.

    Returns:
        What it returned, by rank.

    Raises:
        Exception: Its own error on a rank that failed, on the others that of the first one.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    outcomes = all_gather_object((result, None if error is None else _portable(error)))
    if error is not None:
        raise error
    for _, failure in outcomes:
        if failure is not None:
            raise failure
    return [outcome for outcome, _ in outcomes]


def on_main_process(function: Callable[[], Any]) -> Any:
    """Call a function on the first rank alone; what it returns or raises, all do.

    Args:
        function: What to do. What it returns must pickle.

    Returns:
        What it returned, on every rank.

    Raises:
        Exception: Its error, on every rank.
    """
    return on_all_ranks(lambda: function() if get_dist_info()[0] == 0 else None)[0]


def _portable(error: Exception) -> Exception:
    """The error as another process can raise it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # its arguments, or a constructor of other ones
        return RuntimeError(f'rank {get_dist_info()[0]}: {type(error).__name__}: {error}')
