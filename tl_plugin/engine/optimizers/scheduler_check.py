"""Find schedulers that give the learning rates of all layers one value."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from mmengine.logging import print_log

from tl_plugin.stack.options import type_name

# Options that set an absolute rate, and how to keep the ratios between layers.
_FIXES = dict(
    eta_min='give it eta_min_ratio (eta_min divided by the learning rate)',
    eta_max='use LinearLR for the warm-up and CosineAnnealingLR with eta_min_ratio',
    min_value='leave it out',
)


def absolute_rates(scheduler: Any) -> dict[str, float]:
    """Find the options of a learning-rate scheduler that don't scale with a group's own rate.

    Args:
        scheduler: A scheduler or its config.

    Returns:
        The option, ``eta_min``, ``eta_max`` or ``min_value``, and its value.

    Example:
        >>> absolute_rates(dict(type='CosineAnnealingLR', T_max=100, eta_min=1e-6))
        {'eta_min': 1e-06}
        >>> absolute_rates(dict(type='CosineAnnealingLR', T_max=100, eta_min_ratio=0.01))
        {}
    """
    if isinstance(scheduler, dict):
        options = scheduler
        of_rate = type_name(scheduler).endswith('LR')
    else:
        options = dict(vars(scheduler))
        options['min_value'] = max(options.get('min_values') or [0])
        of_rate = scheduler.param_name == 'lr'
    return {name: options[name] for name in _FIXES if of_rate and options.get(name)}


def warn_of_absolute_rates(schedulers: Iterable[Any]) -> None:
    """Warn of schedulers that destroy the ratios between the layers' learning rates.

    Args:
        schedulers: Schedulers or their configs.
    """
    for scheduler in schedulers:
        name = type_name(scheduler)
        for option, value in absolute_rates(scheduler).items():
            print_log(
                f'{name} has {option}={value}, which is the same for all layers and destroys the '
                f'ratios between their learning rates: {_FIXES[option]}.',
                logger='current',
                level=logging.WARNING,
            )
