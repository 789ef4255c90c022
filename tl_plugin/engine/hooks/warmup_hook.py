"""Raises the learning rate from near 0 at the start of training."""

from __future__ import annotations

import math

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.options import checked

from ..freezing.trainable import optimizers
from ..optimizers.warmup import check_priority, lower_rates, restore_rates


@HOOKS.register_module()
class WarmupHook(Hook):
    """Lets the learning rate grow linearly over the first part of training.

    Beside any ``param_scheduler``: in these iterations the rate is what the schedulers say, times a
    factor that grows to 1. Where mmengine's ``LinearLR`` has to know the config's other schedulers
    and its length, an overlay with this hook need not. The factor depends on the iteration alone,
    so that a resumed run goes on exactly.

    The first steps of AdamW move each weight by about the whole learning rate, whatever its
    gradient; where batch norms keep their running statistics, nothing evens out what 20 layers make
    of that (Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv 1706.02677; Ma and Yarats,
    "On the Adequacy of Untuned Warmup for Adaptive Optimization", AAAI 2021, arXiv 1910.04209).

    Args:
        share: Share of the iterations of training in which the rate grows, in (0, 1]; at least one
            iteration. Defaults to 0.1.

    Raises:
        ValueError: If the share is out of its range, or the hook's priority would let schedulers
            see the lowered rate.

    Example:
        >>> # in a config
        >>> custom_hooks = [dict(type='WarmupHook')]
    """

    # Before the hook that logs the rate, and before those that step schedulers and save.
    priority = 'HIGHEST'

    @checked
    def __init__(self, share: float = 0.1) -> None:
        if not 0 < share <= 1:
            raise ValueError(f'WarmupHook: share must be in (0, 1], got {share}')
        self.share = share

    def before_train(self, runner: Runner) -> None:
        """Check that schedulers won't see the lowered rate."""
        check_priority(self)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Lower the rates for one iteration."""
        iters = math.ceil(self.share * runner.max_iters)
        if runner.iter < iters:
            lower_rates(_groups(runner), (runner.iter + 1) / (iters + 1))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Restore them before the schedulers step."""
        restore_rates(_groups(runner))


def _groups(runner: Runner) -> list[dict]:
    return [group for optimizer in optimizers(runner) for group in optimizer.param_groups]
