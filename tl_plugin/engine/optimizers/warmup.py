"""Lower the learning rates of optimizer groups during an iteration, and restore them after.

Schedulers compute a rate from the last one, so that whatever lowers it for good compounds with
them. Here groups hold the lowered rate only from ``before_train_iter``, where it is logged, to
``after_train_iter``, before schedulers and checkpoints see it. Hooks that warm up the same group
multiply: the first to restore a group gives it the rate that it had before any of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.hooks import Hook
from mmengine.runner import Priority, get_priority

_RATE = 'rate_without_warmup'


def lower_rates(groups: Iterable[dict], factor: float) -> None:
    """Multiply the rates of optimizer groups, until :func:`restore_rates`."""
    for group in groups:
        group.setdefault(_RATE, group['lr'])
        group['lr'] = group['lr'] * factor


def restore_rates(groups: Iterable[dict]) -> None:
    """Give each group the rate back that it had, to the bit."""
    for group in groups:
        if _RATE in group:
            group['lr'] = group.pop(_RATE)


def check_priority(hook: Hook) -> None:
    """Check that a hook acts before schedulers, checkpoints and the log.

    Raises:
        ValueError: If it doesn't.
    """
    if get_priority(hook.priority) > Priority.HIGHEST.value:
        raise ValueError(
            f"{type(hook).__name__} needs priority 'HIGHEST', its default, to restore the learning "
            f'rates before schedulers and checkpoints see them after a warm-up; got '
            f'{hook.priority!r}.'
        )
