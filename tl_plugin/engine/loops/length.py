from __future__ import annotations

import inspect
from typing import Any

from mmengine.runner import EpochBasedTrainLoop

from tl_plugin.stack.options import check_option

_STOCK = inspect.signature(EpochBasedTrainLoop.__init__).parameters


def check_length(loop: str, max_epochs: Any, max_iters: Any, **others: Any) -> None:
    """Checks how long a train loop of ours shall run, and what else its config says.

    Args:
        loop: Its name, for messages.
        max_epochs: Its length by epoch, or None.
        max_iters: Its length by iteration, or None.
        **others: ``val_begin``, ``val_interval``, ``dynamic_intervals``, as in mmengine's loops.

    Raises:
        ValueError: If not just one length is given, or a number is out of range.
        TypeError: If one is no number, or there is no such option.
    """
    if (max_epochs is None) == (max_iters is None):
        raise ValueError(
            f'{loop} trains by epoch (max_epochs) or by iteration (max_iters): give '
            f'one of them, got max_epochs={max_epochs} and max_iters={max_iters}'
        )
    for name in others:
        if name not in _STOCK:
            raise TypeError(
                f'{loop} has no option {name!r}: it takes max_epochs or max_iters, '
                'val_begin, val_interval, dynamic_intervals'
            )
    numbers = {'max_epochs': max_epochs, 'max_iters': max_iters, **others}
    intervals = numbers.pop('dynamic_intervals', None)
    check_option(loop, 'dynamic_intervals', intervals, 'list[list[int]] | None')
    for name, value in numbers.items():
        check_option(loop, name, value, 'int | None')
        if value is not None and value < 1:
            raise ValueError(f'{loop}: {name} must be at least 1, got {value}')
