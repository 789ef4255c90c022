"""Find before training which metrics a validation will give, and what waits for them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from mmengine.dist import broadcast_object_list
from mmengine.evaluator import BaseMetric, DumpResults, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook, ParamSchedulerHook
from mmengine.runner import IterBasedTrainLoop, Runner, ValLoop
from mmengine.runner.amp import autocast

from tl_plugin.reliability.seeds import generators_kept
from tl_plugin.stack.model_wrappers import evaluating
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import TARGET, announce_domain

from .loops.domain_eval_loop import DomainValLoop

#: Images of a domain from which the names of its metrics are learned.
_IMAGES = 4
#: Packages whose hooks declare the metrics that they add, and whose metrics have the same names
#: for all images.
_KNOWN = ('mmengine.', 'mmpretrain.', 'tl_plugin.')


class Monitor(NamedTuple):
    """A metric that a hook, a scheduler or a loop waits for.

    Attributes:
        owner: The class that waits for it.
        option: The option that names the metric, as ``--cfg-options`` writes it.
        value: The option's value.
        names: Names under which a validation may give it; any one of them is enough.
        prefix: A prefix of these names that the option leaves out. Defaults to ''.
        rule: Whether mmengine infers from the name which way is better, where no ``rule`` stands
            beside the option. Defaults to False.
        place: Hooks before this one in ``runner.hooks`` may add it. Defaults to None, any hook.
    """

    owner: str
    option: str
    value: str
    names: tuple[str, ...]
    prefix: str = ''
    rule: bool = False
    place: int | None = None


class Metrics(NamedTuple):
    """The metrics that a validation will give.

    Attributes:
        names: Their names, and patterns of those that hooks add.
        unknown: Why there may be others; '' where there are none.
    """

    names: tuple[str, ...]
    unknown: str

    def include(self, monitor: Monitor) -> bool:
        """Return whether a monitor will find its metric."""
        return any(fnmatchcase(name, known) for name in monitor.names for known in self.names)


def monitors(runner: Runner) -> Iterator[Monitor]:
    """Yield the metrics that hooks, schedulers and the training loop wait for."""
    for place, hook in enumerate(runner.hooks):
        name = type(hook).__name__
        if isinstance(hook, CheckpointHook):
            for metric in hook.save_best or []:
                option = f'{_place(runner, name)}.save_best'
                if metric == 'auto' and not _infers_rule(hook):
                    continue
                yield Monitor(name, option, metric, (metric,), rule=True, place=place)
        elif isinstance(hook, EarlyStoppingHook):
            option, metric = f'{_place(runner, name)}.monitor', hook.monitor
            yield Monitor(name, option, metric, (metric,), rule=True, place=place)
        elif isinstance(hook, ParamSchedulerHook):
            for option, scheduler in schedulers_by_option(runner):
                metric = getattr(scheduler, 'monitor', None)
                if getattr(scheduler, 'need_val_args', False) and isinstance(metric, str):
                    owner = type(scheduler).__name__
                    yield Monitor(owner, f'{option}.monitor', metric, (metric,), place=place)
        elif hasattr(hook, 'awaited_metrics'):
            yield from (monitor._replace(place=place) for monitor in hook.awaited_metrics(runner))
    if hasattr(runner.train_loop, 'awaited_metrics'):
        yield from runner.train_loop.awaited_metrics(runner)


def _place(runner: Runner, kind: str) -> str:
    """Find the config key under which a hook's options are set."""
    for key, hook in (runner.cfg.get('default_hooks') or {}).items():
        if hook and type_name(hook) == kind:
            return f'default_hooks.{key}'
    return f'custom_hooks.{kind}'


def _infers_rule(hook: CheckpointHook) -> bool:
    """Return whether the hook infers its rule from mmengine's list of metric names."""
    keys = (hook.greater_keys, hook.less_keys)
    return hook.rules[0] is None and keys == (hook._default_greater_keys, hook._default_less_keys)


def schedulers_by_option(runner: Runner) -> Iterator[tuple[str, Any]]:
    """Yield a runner's schedulers, each with the config key that it was built from."""
    built, config = runner.param_schedulers, runner.cfg.get('param_scheduler')
    if isinstance(built, dict):
        for key, several in built.items():
            yield from ((f'param_scheduler.{key}', scheduler) for scheduler in several)
        return
    for index, scheduler in enumerate(built or []):
        single = isinstance(config, dict)
        yield 'param_scheduler' if single else f'param_scheduler.{index}', scheduler


def validation_metrics(runner: Runner) -> Metrics:
    """Learn the names of a validation's metrics from a few images of each domain.

    The run is left unchanged: copies compute the metrics, and the states of random generators are
    restored. All processes get the same result.

    Args:
        runner: A runner whose model and validation loop are built.
    """
    found: list[Any] = [None]
    with generators_kept():
        found[0] = _own_metrics(runner)
    broadcast_object_list(found)
    return found[0]


def with_added(own: Metrics, hooks: Sequence[Hook]) -> Metrics:
    """Add the metrics that hooks put beside a validation's own, in the order of the hooks."""
    names, unknown = list(own.names), own.unknown
    for hook in hooks:
        if hasattr(hook, 'adds_metrics'):
            names += hook.adds_metrics(tuple(names))
        elif not _is_known(type(hook)) and _listens(hook):
            unknown = unknown or f'{type(hook).__name__} may add metrics'
    return Metrics(tuple(dict.fromkeys(names)), unknown)


def how_to_fix(monitor: Monitor, own: Metrics) -> str:
    """Propose a setting that works, from the validation's own metrics.

    Args:
        monitor: The monitor whose metric is missing.
        own: The validation's metrics.
    """
    usable = [name for name in own.names if name.startswith(monitor.prefix)]
    wanted = monitor.names[0]
    domain = wanted.split('/')[0]
    choices = [
        *(name for name in usable if name.endswith(f'/{wanted}') and name.startswith(TARGET)),
        *(name for name in usable if name.endswith(f'/{wanted}')),
        *(name for name in usable if name.startswith(f'{domain}/') and '/' in wanted),
        *difflib.get_close_matches(wanted, usable, n=1),
        *usable,
    ]
    if not choices:
        return ''
    name = choices[0].removeprefix(monitor.prefix)
    setting = f': set {monitor.option}={name}'
    if not monitor.rule or inferred_rule(name):
        return setting
    rule = monitor.option.rpartition('.')[0] + '.rule'
    return f'{setting} {rule}=greater (or less, where lower is better)'


def inferred_rule(name: str) -> bool:
    """Return whether mmengine infers from a metric's name if more or less is better."""
    keys = (*CheckpointHook._default_greater_keys, *CheckpointHook._default_less_keys)
    return any(key.lower() in name.lower() for key in keys)


def never_validates(runner: Runner) -> str:
    """Return why a run will not validate, '' where it will."""
    loop = runner.train_loop
    if runner.val_loop is None:
        return 'the run has no validation (val_dataloader, val_cfg, val_evaluator)'
    end = loop.max_iters if isinstance(loop, IterBasedTrainLoop) else loop.max_epochs
    begin = getattr(loop, 'val_begin', 0)
    if begin > end:
        return f'validation begins at {begin} (train_cfg.val_begin) and training ends at {end}'
    return ''


def _own_metrics(runner: Runner) -> Metrics:
    loop = runner.val_loop
    if type(loop).run not in (ValLoop.run, DomainValLoop.run):
        return Metrics((), f'{type(loop).__name__} validates in its own way')
    names: list[str] = []
    unknown = ''
    domains = getattr(loop, 'domains', {'': (loop.dataloader, loop.evaluator)})
    with evaluating(runner.model):
        for domain, (loader, evaluator) in domains.items():
            announce_domain(runner.model, domain or TARGET)
            try:
                found, why = _names_of(runner, loader, evaluator, loop.fp16)
            except Exception as error:  # faulty data are reported where they are read
                found, why = [], f'a trial evaluation ended in {type(error).__name__}: {error}'
            names += [f'{domain}/{name}' if domain else name for name in found]
            unknown = unknown or why
        announce_domain(runner.model, TARGET)
    return Metrics(tuple(names), unknown)


@torch.no_grad()
def _names_of(runner: Runner, loader: Any, evaluator: Any, fp16: bool) -> tuple[list[str], str]:
    """Return the names of one domain's metrics, and why there may be others."""
    if type(evaluator) is not Evaluator:
        return [], f'{type(evaluator).__name__} evaluates in its own way'
    count = min(_IMAGES, len(loader.dataset))
    batch = loader.collate_fn([loader.dataset[index] for index in range(count)])
    with autocast(enabled=fp16):
        outputs = runner.model.val_step(batch)
    samples = [one.to_dict() if hasattr(one, 'to_dict') else one for one in outputs]
    names, unknown = [], ''
    for metric in evaluator.metrics:
        if isinstance(metric, DumpResults):
            continue  # it writes a file and gives no metric
        own_way = type(metric).evaluate is not BaseMetric.evaluate
        if own_way or not _is_known(type(metric)):
            unknown = f'{type(metric).__name__} names its metrics in its own way'
        if own_way:
            continue
        metric = copy.deepcopy(metric)
        metric.process(batch, samples)
        prefix = f'{metric.prefix}/' if metric.prefix else ''
        names += [f'{prefix}{name}' for name in metric.compute_metrics(metric.results)]
    return names, unknown


def _is_known(kind: type) -> bool:
    return f'{kind.__module__}.'.startswith(_KNOWN)


def _listens(hook: Hook) -> bool:
    points = ('before_val', 'before_val_epoch', 'after_val_epoch')
    return any(getattr(type(hook), point) is not getattr(Hook, point) for point in points)
