"""Stop a run whose loss is NaN or infinite, before anything is saved."""

from __future__ import annotations

import math
from typing import Any

from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.stack.options import checked

from .batches import image_names


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop at once when the loss is NaN or infinite, and name the images of the batch.

    It runs before the checkpoint of the iteration is written, so that the last good one is kept.

    Args:
        patience: How many such losses in a row are tolerated. Defaults to None: 0, but 10 where
            a gradient scaler skips steps that overflow, as mixed precision does.

    Raises:
        ValueError: If ``patience`` is no number of iterations.
    """

    # After the hooks that log the loss, before schedulers and checkpoints.
    priority = 'BELOW_NORMAL'

    @checked
    def __init__(self, patience: int | None = None) -> None:
        if patience is not None and (not isinstance(patience, int) or patience < 0):
            raise ValueError(f'patience={patience!r}: expected a number of iterations or None')
        self.patience = patience
        self._in_a_row = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check the losses of the step.

        Raises:
            FloatingPointError: If one isn't finite; names it and the images.
        """
        losses = {name: _number(v) for name, v in (outputs or {}).items() if 'loss' in name}
        bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if self._in_a_row <= self._allowed(runner):
            return
        names = image_names(data_batch)
        raise FloatingPointError(
            f'{", ".join(f"{name} is {value}" for name, value in bad.items())} at epoch '
            f'{runner.epoch + 1}, iteration {runner.iter + 1}, rank {get_dist_info()[0]}. Training '
            'has diverged: lower the learning rate, clip gradients (optim_wrapper.clip_grad), or '
            f'look at these {len(names)} images: {", ".join(names)}. The last checkpoint is from '
            'before'
        )

    def _allowed(self, runner: Runner) -> int:
        if self.patience is not None:
            return self.patience
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        return 10 if scaler is not None and scaler.is_enabled() else 0


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    value = value.detach() if hasattr(value, 'detach') else value
    # Several values, such as one per image, are finite if their sum is.
    return float(value.sum() if hasattr(value, 'sum') else value)
