"""A process of a distributed run that dies, and what the others say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

# How gloo, NCCL and the store that processes meet at say that nobody answers.
_SILENCE = re.compile(
    r'connection (closed|reset|refused|was likely closed)|broken pipe|timed? ?out|'
    r'remote process (has )?(exited|terminated)|failed to recv|socket',
    re.IGNORECASE,
)


@contextmanager
def naming_lost_ranks() -> Iterator[None]:
    """Turns an error from the depths of the communication into one that says what to do.

    A process that dies closes its connections, so that the others notice at their next exchange; of
    one that hangs they hear nothing, and give up after ``env_cfg.dist_cfg.timeout`` seconds.

    Raises:
        RuntimeError: If a process of the run can't be reached any more.
    """
    try:
        yield
    except RuntimeError as error:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        if alone or not _SILENCE.search(str(error)):
            raise
        raise RuntimeError(
            f'rank {dist.get_rank()} lost contact with another of the {dist.get_world_size()} '
            'processes: it has died or hangs, and its own message says why. The last checkpoint is '
            'whole: run the same command with --resume. MAX_RESTARTS=3 bash tools/dist_train.sh '
            'CONFIG PROCESSES --resume does so by itself'
        ) from error
