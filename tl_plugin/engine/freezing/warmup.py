"""Warms up the learning rate of layers that have just begun to train."""

from __future__ import annotations

from typing import Collection, Sequence

from mmengine.runner import Runner

from tl_plugin.stack.model_wrappers import parameters

from .schedules import Phase
from .trainable import optimizers


class PhaseWarmup:
    """Lowers the rate of newly trained groups during an iteration, and restores it after.

    Schedulers compute a rate from the last one, so that whatever lowers it for good compounds
    with them. Here the groups hold the lowered rate only from ``before_train_iter``, where it is
    logged, to ``after_train_iter``, before schedulers and checkpoints see it. The factor is a
    function of the iteration alone, so that a resumed run goes on exactly.

    Args:
        runner: The runner, with its optimizer loaded.
        phases: The phases, each with its parameters.
        claim: All parameters that are frozen at the start.
        iters: Iterations of the warm-up, in which the rate grows linearly.

    Raises:
        ValueError: A group holds parameters that begin to train at different times, and so
            can't be warmed up for some of them.
    """

    def __init__(
        self, runner: Runner, phases: Sequence[Phase], claim: Collection[str], iters: int
    ) -> None:
        self.iters = iters
        self._saved: list[tuple[dict, float]] = []
        values = parameters(runner.model)
        groups = [g for optimizer in optimizers(runner) for g in optimizer.param_groups]
        waiting = {id(values[name]) for name in claim}
        frozen_by_others = {
            id(v) for n, v in values.items() if not v.requires_grad and n not in claim
        }
        self.groups: list[list[dict]] = []
        for phase in phases:
            # The affine weights of norm layers may train all along.
            beginning = {id(values[name]) for name in phase.names if name in claim}
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
                factor = (iteration - start + 1) / (self.iters + 1)
                for group in groups:
                    self._saved.append((group, group['lr']))
                    group['lr'] = group['lr'] * factor

    def restore(self) -> None:
        """Give each group its rate back, to the bit."""
        for group, rate in reversed(self._saved):
            group['lr'] = rate
        self._saved.clear()
