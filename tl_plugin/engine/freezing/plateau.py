"""What metric-driven unfreezing has decided so far, kept in the checkpoint."""

from __future__ import annotations

import logging

from mmengine.logging import print_log
from mmengine.runner import IterBasedTrainLoop, Runner

from .schedules import Plateau


class PlateauState:
    """Decides when the next phase begins, and remembers it.

    The decisions lie in the message hub, which every checkpoint holds. A checkpoint is written
    before the validation of its epoch or iteration, so that a resumed run, which the loops start
    with training, first makes up for that validation: else it would decide otherwise than the
    run that went on.

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
        """Start afresh, or go on from what a resumed checkpoint holds."""
        saved = runner.message_hub.get_info(self.key) if runner.iter else None
        if saved is not None:
            self._state = dict(saved, starts=list(saved['starts']))
        elif runner.iter:
            self._state['seen'] = runner.iter
            print_log(
                'The checkpoint knows nothing of unfreezing: all layers start frozen.',
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
        """Take in the metrics of a validation.

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
