"""Warns when a model gives all images one class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.stack.options import checked

_CURE = (
    'Either the network is dead (the classification loss stays at that of guessing): lower the '
    'learning rate, warm it up (WarmupHook), clip gradients (optim_wrapper.clip_grad), or let '
    'batch norms follow the batches (model.norm_eval=False). Or an alignment pulls too hard: lower '
    'its loss_weight or let it rise (gamma=10.0); entropy_minimization alone ends like this, '
    'information_maximization keeps the classes apart'
)


@HOOKS.register_module()
class CollapsedPredictionsHook(Hook):
    """Says so when nearly all images of a domain are given one class.

    A dead network ends there, and so do features that were pulled into one point and entropies
    that were minimised too hard; the loss falls all the while, and a target without labels has no
    accuracy that would show it. It looks at every validation and test, at each domain of a
    ``DomainValLoop`` for itself, over all processes, and warns as it begins and says when it is
    over. Where the images' own labels are known and as uneven as the predictions, all is well.

    Args:
        share: The part of a domain's images, in (0, 1], from which on one class counts as all.
            Defaults to 0.99.
        min_images: Domains of fewer images aren't judged. Defaults to 20.

    Raises:
        ValueError: If an argument is out of its range.
    """

    priority = 'NORMAL'

    @checked
    def __init__(self, share: float = 0.99, min_images: int = 20) -> None:
        if not 0 < share <= 1:
            raise ValueError(f'CollapsedPredictionsHook: share must be in (0, 1], got {share}')
        if min_images < 1:
            raise ValueError(
                f'CollapsedPredictionsHook: min_images must be at least 1, got {min_images}'
            )
        self.share = share
        self.min_images = min_images
        self._counts: dict[str, tuple[Counter, Counter]] = {}
        self._collapsed: set[str] = set()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count a batch's predictions."""
        self._count(getattr(runner.val_loop, 'domain', 'val'), outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Judges what was counted."""
        self._judge(runner.val_loop, f', iteration {runner.iter}')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count a batch's predictions."""
        self._count(getattr(runner.test_loop, 'domain', 'test'), outputs)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Judges what was counted."""
        # To ask for the iteration builds the loop of training, whose data a test may not have.
        trains = isinstance(runner._train_loop, BaseLoop)
        self._judge(runner.test_loop, f', iteration {runner.iter}' if trains else '')

    def _count(self, domain: str, outputs: Any) -> None:
        counts = self._counts.setdefault(domain, (Counter(), Counter()))
        for count, key in zip(counts, ('pred_label', 'gt_label')):
            count.update(_classes(outputs, key))

    def _judge(self, loop: Any, when: str) -> None:
        parts = all_gather_object(self._counts)
        self._counts = {}
        for domain in parts[0]:
            predicted, true = (
                sum((part[domain][kind] for part in parts if domain in part), Counter())
                for kind in (0, 1)
            )
            images = sum(predicted.values())
            if images >= self.min_images:
                self._report(domain, predicted, true, images, when, _names(loop))

    def _report(
        self, domain: str, predicted: Counter, true: Counter, images: int, when: str, names: Any
    ) -> None:
        label, count = predicted.most_common(1)[0]
        uneven = bool(true) and true[label] >= self.share * sum(true.values())
        collapsed = count >= self.share * images and not uneven
        name = f'{label} ({names[label]})' if 0 <= label < len(names) else str(label)
        if collapsed and domain not in self._collapsed:
            _say(
                f'{domain}{when}: the predictions have collapsed, {count:,} of '
                f'{images:,} images are given class {name}. {_CURE}.',
                logging.WARNING,
            )
        elif domain in self._collapsed and not collapsed:
            _say(f'{domain}{when}: no longer collapsed.', logging.INFO)
        (self._collapsed.add if collapsed else self._collapsed.discard)(domain)


def _classes(outputs: Any, key: str) -> list[int]:
    """One class an image, of those that have one; one wait for the device."""
    samples = outputs if isinstance(outputs, (list, tuple)) else ()
    found = [sample.get(key) for sample in samples if hasattr(sample, 'get')]
    single = [
        value.flatten() for value in found if isinstance(value, torch.Tensor) and value.numel() == 1
    ]
    return [label for label in torch.cat(single).tolist() if label >= 0] if single else []


def _names(loop: Any) -> Sequence[str]:
    found = (getattr(part, 'metainfo', None) for part in inner_datasets(loop.dataloader.dataset))
    return next((names for info in found if (names := (info or {}).get('classes'))), ())


def _say(message: str, level: int) -> None:
    print_log(f'CollapsedPredictionsHook: {message}', logger='current', level=level)
