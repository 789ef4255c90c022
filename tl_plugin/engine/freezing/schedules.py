"""Schedules of unfreezing, by time or by a monitored metric."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Tuple, Union

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner

from tl_plugin.stack.options import check_option

from ..layers import LayerMap
from ..layers.selection import LayerSpec, parse_depths

#: A whole number of epochs or iterations, or a fraction of the run between 0 and 1.
Time = Union[int, float]
Pairs = Sequence[Tuple[Time, LayerSpec]]


@dataclass(frozen=True)
class Phase:
    """One step of unfreezing.

    Attributes:
        start: When it begins; None where a metric decides.
        depths: The layers that begin to train.
        names: Their parameters.
    """

    start: Time | None
    depths: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Every:
    """Unfreeze the deepest frozen layer first, then the next, at a fixed interval.

    Attributes:
        every: Time from one step to the next.
        begin: Time of the first step. Defaults to ``every``.
        layers_per_step: Layers that begin to train together. Defaults to 1.
        by_epoch: Whether times count epochs, or else iterations. Defaults to True.
    """

    every: int | float
    begin: int | float | None = None
    layers_per_step: int = 1
    by_epoch: bool = True

    def phases(self, layers: LayerMap, initially_frozen: Sequence[str]) -> list[Phase]:
        """List the phases of a frozen part, in their order."""
        steps = _deepest_first(layers, initially_frozen, self.layers_per_step)
        begin = self.every if self.begin is None else self.begin
        if isinstance(begin, float) != isinstance(self.every, float):
            raise ValueError(
                f'begin={begin} and every={self.every}: give both as whole numbers '
                'or both as fractions.'
            )
        return [
            _phase(begin + index * self.every, depths, layers, initially_frozen)
            for index, depths in enumerate(steps)
        ]


@dataclass(frozen=True)
class Until:
    """Unfreeze the deepest frozen layer first, evenly spread, the last one at a given time.

    Attributes:
        until: When the last layer begins to train, as a fraction of the run.
        layers_per_step: Layers that begin to train together. Defaults to 1.
        by_epoch: Whether steps fall on whole epochs, or else on iterations. Defaults to True.
    """

    until: float
    layers_per_step: int = 1
    by_epoch: bool = True

    def phases(self, layers: LayerMap, initially_frozen: Sequence[str]) -> list[Phase]:
        """List the phases of a frozen part, in their order."""
        if not isinstance(self.until, float) or not 0 < self.until < 1:
            raise ValueError(f'until={self.until}: expected a fraction of the run, such as 0.5.')
        steps = _deepest_first(layers, initially_frozen, self.layers_per_step)
        return [
            _phase(self.until * (index + 1) / len(steps), depths, layers, initially_frozen)
            for index, depths in enumerate(steps)
        ]


@dataclass(frozen=True)
class Milestones:
    """Unfreeze given layers at given times.

    Attributes:
        milestones: Pairs of a time and the layers that begin to train then, in order of time:
            ``[(0.5, ':-1')]`` is a linear probe, then fine-tuning.
        by_epoch: Whether times count epochs, or else iterations. Defaults to True.
    """

    milestones: Pairs
    by_epoch: bool = True

    def phases(self, layers: LayerMap, initially_frozen: Sequence[str]) -> list[Phase]:
        """List the phases of a frozen part, in their order."""
        if (
            not isinstance(self.milestones, (list, tuple))
            or not self.milestones
            or not all(
                isinstance(item, (list, tuple)) and len(item) == 2 for item in self.milestones
            )
        ):
            raise ValueError(
                "milestones must be pairs of a time and layers, such as [(5, '-3:-1'),"
                f" (10, '0:-3')], got {self.milestones!r}."
            )
        found, begun = [], {}
        for start, spec in self.milestones:
            depths = parse_depths(spec, layers.num_layers)
            again = [depth for depth in depths if depth in begun]
            if again:
                raise ValueError(
                    f'Overlapping milestones: {spec!r} at {start} has depths {again}, which begin '
                    f'to train at {begun[again[0]]} already. Name each layer once.'
                )
            phase = _phase(start, depths, layers, initially_frozen)
            if not phase.names:
                raise ValueError(
                    f'The milestone {spec!r} at {start} has depths {depths}, none of '
                    'which the hook freezes.'
                )
            begun.update(dict.fromkeys(depths, start))
            found.append(phase)
        return found


@dataclass(frozen=True)
class Plateau:
    """Unfreeze the deepest frozen layer first, the next each time a metric stops improving.

    Attributes:
        monitor: The metric's name, as validation logs it: ``'accuracy/top1'``.
        patience: Consecutive validations without improvement after which the next step begins.
            Defaults to 1.
        min_delta: Minimum improvement. Defaults to 0.
        rule: ``'greater'`` or ``'less'`` is better. Defaults to ``'less'`` for a loss, and else
            to ``'greater'``.
        layers_per_step: Layers that begin to train together. Defaults to 1.
    """

    monitor: str
    patience: int = 1
    min_delta: float = 0.0
    rule: str | None = None
    layers_per_step: int = 1

    by_epoch = False

    def __post_init__(self) -> None:
        if self.rule not in (None, 'greater', 'less'):
            raise ValueError(f"rule={self.rule!r}: expected 'greater' or 'less'.")
        if self.min_delta < 0:
            raise ValueError(f'min_delta={self.min_delta}: expected 0 or more.')
        if self.patience < 1:
            raise ValueError(f'patience={self.patience}: expected 1 or more.')

    def phases(self, layers: LayerMap, initially_frozen: Sequence[str]) -> list[Phase]:
        """List the phases of a frozen part, in their order."""
        return [
            _phase(None, depths, layers, initially_frozen)
            for depths in _deepest_first(layers, initially_frozen, self.layers_per_step)
        ]

    def improves(self, value: float, best: float | None) -> bool:
        """Return whether a value of the metric is better than the best so far."""
        rule = self.rule or ('less' if 'loss' in self.monitor else 'greater')
        sign = 1 if rule == 'greater' else -1
        return best is None or sign * (value - best) > self.min_delta


_KINDS = dict(every=Every, until=Until, milestones=Milestones, monitor=Plateau)
Schedule = Union[Every, Until, Milestones, Plateau]


def read_schedule(cfg: dict) -> Schedule:
    """Read a schedule from a config.

    Args:
        cfg: The fields of one of the classes above: ``dict(every=1)``, ``dict(until=0.5)``,
            ``dict(milestones=[...])`` or ``dict(monitor='accuracy/top1')``.

    Returns:
        The schedule.

    Raises:
        ValueError: If it is none or several of them, or has other fields.
        TypeError: If a field is of another type.
    """
    kinds = [kind for key, kind in _KINDS.items() if isinstance(cfg, dict) and key in cfg]
    if len(kinds) != 1:
        raise ValueError(f'A schedule has exactly one of {", ".join(_KINDS)}, got {cfg!r}.')
    known = [field.name for field in fields(kinds[0])]
    unknown = sorted(set(cfg) - set(known))
    if unknown:
        raise ValueError(
            f'A schedule with {known[0]!r} has no option {unknown[0]!r}. '
            f'Known options: {", ".join(known)}.'
        )
    for field in fields(kinds[0]):
        if field.name in cfg:
            check_option('schedule', field.name, cfg[field.name], field.type)
    if cfg.get('layers_per_step', 1) < 1:
        raise ValueError(f'layers_per_step={cfg["layers_per_step"]!r}: expected 1 or more.')
    return kinds[0](**cfg)


def _deepest_first(layers: LayerMap, initially_frozen: Sequence[str], step: int) -> list[list[int]]:
    depths = sorted({layers.depth(name) for name in initially_frozen}, reverse=True)
    return [depths[index : index + step] for index in range(0, len(depths), step)]


def _phase(
    start: Time | None, depths: Sequence[int], layers: LayerMap, initially_frozen: Sequence[str]
) -> Phase:
    inside = set(initially_frozen)
    names = tuple(n for depth in depths for n in layers.names(depth) if n in inside)
    return Phase(start, tuple(depths), names)


class PlateauState:
    """Decide when the next phase begins, and keep the decisions for a resumed run.

    The decisions lie in the message hub, which every checkpoint holds. A checkpoint is written
    before the validation of its epoch or iteration, so that a resumed run, which the loops start
    with training, first runs that validation: otherwise it would decide differently from the
    uninterrupted run.

    Args:
        runner: The runner.
        hook: The hook that this belongs to.

    Raises:
        ValueError: The run has no validation.
    """

    def __init__(self, runner: Runner, hook) -> None:
        self.schedule: Plateau = hook.schedule
        self.limit = len(hook.plan.phases)
        if runner.val_loop is None:
            raise ValueError(
                f'Unfreezing by {self.schedule.monitor!r} needs validation during '
                'training: give the config a val_dataloader, val_cfg and '
                'val_evaluator.'
            )
        alike = [other for other in runner.hooks if type(other) is type(hook)]
        self.key = f'gradual_unfreeze_{alike.index(hook)}'
        self._state: dict = dict(starts=[], best=None, stalled=0, seen=0)

    @property
    def starts(self) -> list[int]:
        """The iterations at which phases have begun."""
        return self._state['starts']

    def load(self, runner: Runner) -> None:
        """Load the state of a resumed checkpoint, if there is one."""
        saved = runner.message_hub.get_info(self.key) if runner.iter else None
        if saved is not None:
            self._state = dict(saved, starts=list(saved['starts']))
        elif runner.iter:
            self._state['seen'] = runner.iter
            print_log(
                'The checkpoint holds no state of unfreezing: all layers start frozen.',
                logger='current',
                level=logging.WARNING,
            )
        self._save(runner)

    def catch_up(self, runner: Runner) -> None:
        """Validate now, if the checkpoint was written right before a validation was due."""
        loop = runner.train_loop
        now = runner.iter if isinstance(loop, IterBasedTrainLoop) else runner.epoch
        due = now >= max(1, runner.val_begin) and now % runner.val_interval == 0
        if due and self._state['seen'] < runner.iter:
            runner.val_loop.run()

    def update(self, runner: Runner, metrics: dict) -> None:
        """Update the state with the metrics of a validation.

        Raises:
            KeyError: The metric isn't among them.
        """
        if self.schedule.monitor not in metrics:
            raise KeyError(
                f'Unfreezing monitors {self.schedule.monitor!r}, but validation gives '
                f'{", ".join(sorted(metrics)) or "nothing"}.'
            )
        state, value = self._state, float(metrics[self.schedule.monitor])
        if self.schedule.improves(value, state['best']):
            state.update(best=value, stalled=0)
        else:
            state['stalled'] += 1
        if state['stalled'] >= self.schedule.patience and len(self.starts) < self.limit:
            state.update(starts=[*self.starts, runner.iter], stalled=0)
            print_log(
                f'{self.schedule.monitor} has not improved on {state["best"]:.6g} for '
                f'{self.schedule.patience} validations: phase {len(self.starts)} of '
                f'{self.limit} begins.',
                logger='current',
            )
        state['seen'] = runner.iter
        self._save(runner)

    def _save(self, runner: Runner) -> None:
        runner.message_hub.update_info(self.key, dict(self._state, starts=list(self.starts)))
