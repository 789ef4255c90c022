"""Check before training that metrics exist that a run waits for, and that schedulers fit."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..monitors import (
    Metrics,
    Monitor,
    how_to_fix,
    inferred_rule,
    monitors,
    never_validates,
    schedulers_by_option,
    validation_metrics,
    with_added,
)
from ..optimizers.scheduler_check import warn_of_absolute_rates


@HOOKS.register_module()
class MonitorCheckHook(Hook):
    """Refuse a run that waits for a metric which no validation will give.

    ``save_best``, an ``EarlyStoppingHook``, ``ReduceOnPlateau...`` schedulers and the hooks and
    loops of this package name metrics. mmengine finds a wrong name after the first validation, or
    never. This hook validates a few images of each domain before training, without changing the
    run, and compares names, including those that other hooks add (``retention/forgetting``). Where
    a third party's metric, evaluator, loop or hook may give further names, it only warns.

    It also warns of schedulers that would make layer-wise learning rates equal. The launch adds
    this hook to every run.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Check schedulers and monitored metrics.

        Raises:
            ValueError: If a metric will be missing.
        """
        if getattr(runner.optim_wrapper, 'has_layer_rates', False):
            warn_of_absolute_rates(each for _, each in schedulers_by_option(runner))
        waiting = list(monitors(runner))
        if not waiting:
            return
        reason = never_validates(runner)
        if reason:
            for monitor in waiting:
                _warn(f'{_wait(monitor)}, but {reason}: it will never be looked at')
            return
        own = validation_metrics(runner)
        for monitor in waiting:
            if monitor.value == 'auto':
                _check_auto(monitor, own)
            else:
                _check(monitor, own, with_added(own, runner.hooks[: monitor.place]))


def _check(monitor: Monitor, own: Metrics, found: Metrics) -> None:
    if found.include(monitor):
        return
    message = f'{_wait(monitor)}, and the validation gives {", ".join(found.names) or "nothing"}'
    if not found.unknown:
        raise ValueError(f'{message}{how_to_fix(monitor, own)}')
    if found.names:
        _warn(f'{message}, as far as is known ({found.unknown}){how_to_fix(monitor, own)}')


def _check_auto(monitor: Monitor, own: Metrics) -> None:
    """Check that mmengine can infer the rule of the first metric, which 'auto' takes."""
    if own.unknown or not own.names or inferred_rule(own.names[0]):
        return
    first = monitor._replace(names=own.names[:1])
    raise ValueError(
        f"{monitor.option}='auto' means the first metric of the validation, {own.names[0]}, of "
        f'which mmengine does not know whether more or less is better{how_to_fix(first, own)}'
    )


def _wait(monitor: Monitor) -> str:
    return f'{monitor.owner} waits for the metric {monitor.value!r} ({monitor.option})'


def _warn(message: str) -> None:
    print_log(f'MonitorCheckHook: {message}.', logger='current', level=logging.WARNING)
