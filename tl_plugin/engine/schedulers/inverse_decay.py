from __future__ import annotations

from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmpretrain.registry import PARAM_SCHEDULERS

INF = int(1e9)


@PARAM_SCHEDULERS.register_module()
class InverseDecayLR(LRSchedulerMixin, _ParamScheduler):
    r"""Decay the learning rate as DANN does: :math:`lr_0 / (1 + \alpha p)^\beta`, p the progress.

    Ganin et al., JMLR 2016, arXiv 1505.07818, section 5.2.2. It is a factor, so that the
    ratios between layers are kept.

    Args:
        optimizer: Optimizer or ``OptimWrapper``; the runner fills it in.
        alpha: Factor of the progress. Defaults to 10, as in the paper.
        beta: The exponent. Defaults to 0.75, as in the paper.
        begin: Step at which p is 0. Defaults to 0.
        end: Step at which p is 1; the runner fills in the end of training. Defaults to no end.
        last_step: For resuming without a state. Defaults to -1.
        by_epoch: Whether a step is an epoch. Defaults to True.
        verbose: Whether to print the rate at each step. Defaults to False.

    Raises:
        ValueError: If ``alpha`` is negative or there is no end.
    """

    def __init__(
        self,
        optimizer: Any,
        alpha: float = 10.0,
        beta: float = 0.75,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if alpha < 0:
            raise ValueError(f'InverseDecayLR: alpha must be >= 0, got {alpha}')
        if end >= INF:
            raise ValueError(
                'InverseDecayLR follows the part of training that is done: give it an end'
            )
        self.alpha = alpha
        self.beta = beta
        super().__init__(
            optimizer, begin=begin, end=end, last_step=last_step, by_epoch=by_epoch, verbose=verbose
        )

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> InverseDecayLR:
        """Build one that steps by iteration from settings in epochs."""
        if not by_epoch or not epoch_length:
            raise ValueError(
                'only a schedule by epoch can be converted, by the length of an epoch; got '
                f'by_epoch={by_epoch} and epoch_length={epoch_length}'
            )
        begin, end = int(begin * epoch_length), int(end * epoch_length)
        return cls(*args, begin=begin, end=end, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        if self.last_step == 0:
            return [group[self.param_name] for group in self.optimizer.param_groups]
        step = self._factor(self.last_step) / self._factor(self.last_step - 1)
        return [group[self.param_name] * step for group in self.optimizer.param_groups]

    def _factor(self, step: int) -> float:
        return (1 + self.alpha * step / (self.end - self.begin)) ** -self.beta
