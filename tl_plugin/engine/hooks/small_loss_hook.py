"""Leaves out the images with the largest losses, more and more of them."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import SOURCE, require_adaptation_model

from ..loops.paired_loader import train_datasets


@HOOKS.register_module()
class SmallLossHook(Hook):
    """Sets the share of labelled images that the classification loss leaves out.

    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
    NeurIPS 2018, arXiv 1804.06872, with one network that chooses for itself. Networks learn wrong
    labels last, so that images with large losses are left out; at first none are, then more, up to
    ``forget_rate`` (line 12 of algorithm 1). The share is a function of the progress of training
    alone, so that a resumed run goes on exactly.

    Args:
        forget_rate: Share that is left out in the end, in [0, 1): about that of the wrong labels,
            which ``tools/check_labels.py`` estimates. Defaults to 0.2.
        ramp: Fraction of training, in [0, 1], in which it grows from 0. Defaults to 0.25.

    Raises:
        ValueError: If an argument is out of its range, or there is no source.
    """

    priority = 'NORMAL'

    @checked
    def __init__(self, forget_rate: float = 0.2, ramp: float = 0.25) -> None:
        if not 0 <= forget_rate < 1:
            raise ValueError(f'SmallLossHook: forget_rate must be in [0, 1), got {forget_rate}')
        if not 0 <= ramp <= 1:
            raise ValueError(f'SmallLossHook: ramp must be in [0, 1], got {ramp}')
        self.forget_rate = forget_rate
        self.ramp = ramp

    def before_train(self, runner: Runner) -> None:
        """Check that there are images to choose among."""
        if SOURCE not in train_datasets(runner.train_loop):
            raise ValueError(
                'SmallLossHook chooses among source images, and training without a source has '
                'none: take it away'
            )
        self._set(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the share of the next step."""
        self._set(runner)

    def _set(self, runner: Runner) -> None:
        model = require_adaptation_model(runner.model, 'SmallLossHook')
        done = min(runner.iter / max(runner.max_iters, 1), 1.0)
        grown = min(done / self.ramp, 1.0) if self.ramp else 1.0
        model.set_forget_rate(self.forget_rate * grown)
