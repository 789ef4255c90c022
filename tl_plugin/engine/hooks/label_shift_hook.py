"""Watches over how often each class is in the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from tl_plugin.evaluation.metrics import add_metrics
from tl_plugin.evaluation.predictions import DomainPredictions
from tl_plugin.functional import (
    black_box_shift,
    expectation_maximization_shift,
    total_variation,
)
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.class_sets import has_several_labels
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import require_adaptation_model

METHODS = ('bbse', 'em')
_STATE = 'label_shift_weights'


@HOOKS.register_module()
class LabelShiftHook(Hook):
    """Estimates the target's class frequencies without labels, warns and reweighs.

    Alignments assume that classes are about as frequent in both domains; where they aren't, they
    push images into wrong classes. After each validation the frequencies are estimated from the
    predictions on labelled source and unlabelled target images, by
    :func:`tl_plugin.functional.black_box_shift` (Lipton et al., ICML 2018) or
    :func:`tl_plugin.functional.expectation_maximization_shift` (Saerens et al., 2002).

    Logs ``label_shift``, the total variation between the domains' frequencies.

    Args:
        method: 'bbse', which corrects by the classifier's confusion on the source, or 'em', which
            trusts its probabilities. Defaults to 'bbse'.
        threshold: Warn where the total variation is larger. Defaults to 0.2.
        reweight: Weigh source images by the ratio of frequencies, in the classification loss and in
            adversarial alignments, from the first validation on. Defaults to False.
        max_weight: The largest ratio. Defaults to 5.
        source: Name of the labelled domain of the validation. Defaults to 'source'.
        target: Name of the other. Its labels aren't looked at. Defaults to 'target'.

    Raises:
        ValueError: If an argument is out of its range, the validation lacks a domain, or its source
            has no labels.
    """

    priority = 'NORMAL'

    @checked
    def __init__(
        self,
        method: str = 'bbse',
        threshold: float = 0.2,
        reweight: bool = False,
        max_weight: float = 5.0,
        source: str = 'source',
        target: str = 'target',
    ) -> None:
        if method not in METHODS:
            raise ValueError(
                f'LabelShiftHook: method must be {" or ".join(METHODS)}, got {method!r}'
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f'LabelShiftHook: threshold must be in [0, 1], got {threshold}')
        if max_weight < 1:
            raise ValueError(f'LabelShiftHook: max_weight must be at least 1, got {max_weight}')
        self.method = method
        self.threshold = threshold
        self.reweight = reweight
        self.max_weight = max_weight
        self.source, self.target = source, target
        self._seen = DomainPredictions(
            'LabelShiftHook', (source, target), ('pred_score', 'gt_label')
        )
        self._weights: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the domains; a resumed run continues with its weights."""
        self._seen.check(runner.val_loop)
        head = getattr(unwrap(runner.model), 'head', None)
        if has_several_labels(head):
            raise ValueError(
                'LabelShiftHook estimates how frequent classes are that exclude each other, and '
                f'{type(head).__name__} gives an image several: take the hook away'
            )
        if self.reweight:
            model = require_adaptation_model(runner.model, 'LabelShiftHook with reweight=True')
            model.set_class_weights(self._weights)

    def before_val_epoch(self, runner: Runner) -> None:
        """Forgets the last validation."""
        self._seen.clear()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep predictions."""
        self._seen.add(runner.val_loop.domain, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Estimates, logs and warns."""
        source = self._seen.of(self.source, runner.val_loop)
        target = self._seen.of(self.target, runner.val_loop)
        here, there = self._frequencies(source, target)
        shift = total_variation(here, there).item()
        add_metrics(runner, metrics, {'label_shift': shift}, 'val')
        self._tell(shift, here, there)
        if self.reweight:
            self._weights = self._ratios(here, there)
            unwrap(runner.model).set_class_weights(self._weights)

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """Return the names that it adds to the metrics of a validation."""
        return ['label_shift']

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the weights in the checkpoint."""
        if self._weights is not None:
            save_hook_state(checkpoint, _STATE, self._weights)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load them from the checkpoint of a resumed run."""
        if resumes(runner):
            self._weights = saved_hook_state(checkpoint, _STATE)

    def _frequencies(self, source: dict, target: dict) -> tuple[Tensor, Tensor]:
        labels = source['gt_label'][:, 0].long()
        counts = labels.bincount(minlength=source['pred_score'].shape[1])
        here = counts.float() / counts.sum()
        if self.method == 'em':
            return here, expectation_maximization_shift(here, target['pred_score'])
        return here, black_box_shift(source['pred_score'], labels, target['pred_score'])

    def _ratios(self, here: Tensor, there: Tensor) -> Tensor:
        ratios = (there / here.clamp(min=1e-12)).clamp(max=self.max_weight)
        # Classes that the validation hasn't may be in the training, and weigh as they do.
        ratios = torch.where(here > 0, ratios, torch.ones_like(ratios))
        return ratios / (ratios * here).sum()

    def _tell(self, shift: float, here: Tensor, there: Tensor) -> None:
        largest = (there - here).abs().argsort(descending=True)[:5].tolist()
        classes = ', '.join(f'class {k}: {here[k]:.2f} -> {there[k]:.2f}' for k in largest)
        message = f'label shift {shift:.2f}, source -> target frequencies: {classes}.'
        if shift <= self.threshold:
            print_log(f'LabelShiftHook: {message}', logger='current')
            return
        advice = (
            'Source images are weighed by it.'
            if self.reweight
            else 'Alignment can hurt then: let reweight=True weigh the source, or use mcc or '
            'pseudo_label, which align nothing.'
        )
        print_log(f'LabelShiftHook: large {message} {advice}', 'current', logging.WARNING)
