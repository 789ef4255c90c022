"""Plan which layers begin to train at which epoch or iteration, and warm up their rates."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mmengine.runner import Runner
from torch import nn

from tl_plugin.reporting.tables import make_table, table_text
from tl_plugin.stack.model_wrappers import parameters

from ..layers import LayerMap
from ..optimizers.warmup import lower_rates, restore_rates
from .schedules import Every, Phase, Plateau, Schedule, Time, Until
from .trainable import optimizers


@dataclass(frozen=True)
class UnfreezePlan:
    """The phases of one run, a pure function of its length and the schedule.

    Attributes:
        phases: In the order in which they begin, with whole numbers as times.
        by_epoch: Whether the times are epochs, or else iterations.
    """

    phases: tuple[Phase, ...]
    by_epoch: bool

    @classmethod
    def make(cls, schedule: Schedule, phases: Sequence[Phase], length: int) -> UnfreezePlan:
        """Fit a schedule into a run.

        Args:
            schedule: The schedule.
            phases: Its phases.
            length: Epochs or iterations of the run, as the schedule counts.

        Returns:
            The plan. Steps that a short run can't tell apart begin together.

        Raises:
            ValueError: A time that isn't one, before the start, after the end or out of order.
        """
        if isinstance(schedule, Plateau):
            return cls(tuple(phases), False)
        unit = 'epoch' if schedule.by_epoch else 'iteration'
        placed: list[Phase] = []
        for phase in phases:
            phase = replace(phase, start=_place(phase.start, length, unit))
            together = placed and phase.start == placed[-1].start
            if (
                together
                and isinstance(schedule, (Every, Until))
                and isinstance(getattr(schedule, 'every', 0.0), float)
            ):
                last = placed.pop()
                phase = Phase(last.start, last.depths + phase.depths, last.names + phase.names)
            elif placed and phase.start <= placed[-1].start:
                raise ValueError(
                    f'Milestones must come in order of time, one for each: '
                    f'{unit} {phase.start} follows {unit} {placed[-1].start}.'
                )
            placed.append(phase)
        _check_end(schedule, placed, length, unit)
        return cls(tuple(placed), schedule.by_epoch)

    def begun(self, now: int) -> int:
        """Count the phases that have begun at an epoch or iteration, as the plan counts."""
        return bisect_right([phase.start for phase in self.phases], now)


def _place(start: Time | None, length: int, unit: str) -> int:
    whole = isinstance(start, int) and not isinstance(start, bool)
    if not whole and not (isinstance(start, float) and 0 < start < 1):
        raise ValueError(
            f'{start!r} is no time: give a whole number of {unit}s or a fraction of '
            'the run between 0 and 1.'
        )
    if not whole:
        # Never before the first step nor after the last, as long as there are two.
        return min(max(1, int(start * length + 1e-9)), length - 1)
    if start < 1:
        raise ValueError(
            f'Unfreezing at {unit} {start}: what trains from the start is not to '
            'be frozen at all. The first possible one is 1.'
        )
    return start


def _check_end(schedule: Schedule, phases: list[Phase], length: int, unit: str) -> None:
    if not phases or phases[-1].start < length:
        return
    fix = 'Bring the milestones forward, or train longer.'
    if isinstance(schedule, (Every, Until)):
        fix = (
            f'Take more layers at a time (layers_per_step={2 * schedule.layers_per_step}), '
            'or spread the steps over a part of the run with dict(until=0.5).'
        )
    if schedule.by_epoch and length == 1:
        fix = 'A run that counts iterations needs by_epoch=False in the schedule.'
    raise ValueError(
        f'Depths {list(phases[-1].depths)} would begin to train at {unit} {phases[-1].start}, but '
        f'the run ends after {length} {unit}s. {fix}'
    )


def plan_table(
    phases: Sequence[Phase],
    schedule: Schedule,
    layers: LayerMap,
    model: nn.Module,
    frozen: Sequence[str],
) -> str:
    """Show a plan as a table: time, layers, number of parameters.

    Args:
        phases: The phases, with times as numbers or fractions.
        schedule: The schedule.
        layers: The model's layers.
        model: The model.
        frozen: All parameters that are frozen at the start.

    Returns:
        The table, as text.
    """
    sizes = {name: value.numel() for name, value in parameters(model).items()}
    total = sum(sizes.values())
    trained = total - sum(sizes[name] for name in frozen)
    rows = [
        (0, 'the start', '', 'what is not frozen', f'{trained:,}', f'{100 * trained / total:.1f} %')
    ]
    for index, phase in enumerate(phases, 1):
        trained += sum(sizes[name] for name in phase.names)
        rows.append(
            (
                index,
                start_text(phase.start, schedule),
                depths_text(phase.depths),
                modules_text(phase.depths, layers),
                f'{trained:,}',
                f'{100 * trained / total:.1f} %',
            )
        )
    columns = ('phase', 'from', 'depths', 'begins to train', 'weights that train', 'of all')
    return table_text(make_table('Plan of unfreezing', columns, rows))


def start_text(start: Time | None, schedule: Schedule) -> str:
    """Say when a phase begins.

    Example:
        >>> start_text(3, Every(1)), start_text(0.25, Until(0.5))
        ('epoch 3', '25 % of the run')
    """
    if isinstance(schedule, Plateau):
        return f'{schedule.monitor} stalls'
    if isinstance(start, float):
        return f'{100 * start:.3g} % of the run'
    return f'{"epoch" if schedule.by_epoch else "iteration"} {start}'


def depths_text(depths: Sequence[int]) -> str:
    """Write depths, consecutive ones as a range.

    Example:
        >>> depths_text([5, 4, 3]), depths_text([0, 2])
        ('3-5', '0, 2')
    """
    low, high = min(depths), max(depths)
    if len(depths) > 2 and sorted(depths) == list(range(low, high + 1)):
        return f'{low}-{high}'
    return ', '.join(map(str, sorted(depths)))


def modules_text(depths: Sequence[int], layers: LayerMap, count: int = 3) -> str:
    """Name the modules of some layers, the first few of them."""
    names = [name for depth in sorted(depths) for name in layers.modules(depth)]
    return ', '.join(names[:count]) + (f' and {len(names) - count} more' if names[count:] else '')


def times_by_name(phases: Sequence[Phase], schedule: Schedule) -> Mapping[str, str]:
    """Say for each parameter when it begins to train."""
    return {name: start_text(phase.start, schedule) for phase in phases for name in phase.names}


class PhaseWarmup:
    """Lower the rate of newly trained groups during an iteration, and restore it after.

    The factor is a function of the iteration alone, so that a resumed run goes on exactly.

    Args:
        runner: The runner, with its optimizer loaded.
        phases: The phases, each with its parameters.
        initially_frozen: All parameters that are frozen at the start.
        iters: Iterations of the warm-up, in which the rate grows linearly.

    Raises:
        ValueError: A group holds parameters that begin to train at different times, and so
            can't be warmed up for some of them.
    """

    def __init__(
        self, runner: Runner, phases: Sequence[Phase], initially_frozen: Collection[str], iters: int
    ) -> None:
        self.iters = iters
        values = parameters(runner.model)
        groups = [g for optimizer in optimizers(runner) for g in optimizer.param_groups]
        waiting = {id(values[name]) for name in initially_frozen}
        frozen_by_others = {
            id(v) for n, v in values.items() if not v.requires_grad and n not in initially_frozen
        }
        self.groups: list[list[dict]] = []
        for phase in phases:
            # The affine weights of norm layers may train all along.
            beginning = {id(values[name]) for name in phase.names if name in initially_frozen}
            touched = [g for g in groups if any(id(v) in beginning for v in g['params'])]
            for group in touched:
                if any(id(v) not in waiting | frozen_by_others for v in group['params']):
                    raise ValueError(
                        'warmup_iters needs optimizer groups of their own for the layers of a '
                        f'phase, but the group of {phase.names[0]} also holds parameters that '
                        'train before. Use optim_wrapper.constructor='
                        "'LayerwiseLROptimWrapperConstructor'."
                    )
            waiting -= beginning
            self.groups.append(touched)

    def apply(self, iteration: int, starts: Sequence[int]) -> None:
        """Lower the rates for one iteration.

        Args:
            iteration: The iteration about to run.
            starts: The iterations at which phases began, for those that have.
        """
        for groups, start in zip(self.groups, starts):
            if 0 <= iteration - start < self.iters:
                lower_rates(groups, (iteration - start + 1) / (self.iters + 1))

    def restore(self) -> None:
        """Give each group its rate back, to the bit."""
        for groups in self.groups:
            restore_rates(groups)
