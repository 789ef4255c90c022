"""Lets a run live with some images that can't be read, and not with wrong labels."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batches import parts, sample_name
from ..resume.faults import Fault
from ..resume.loaders import train_loaders
from ..resume.replayable_loader import ReplayableLoader

_INFO = 'unreadable_images'


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Replaces training images that are broken or have vanished; checks labels before the step.

    An image that can't be read is named in the log, counted once, and replaced by another of the
    same data set (of several joined ones, the same among them), which one being a function of seed
    and position. Batches keep their size, so that the ranks of a distributed run stay in step. A
    mistake in a transform is none of this and ends the run as before. The count goes into the
    checkpoints.

    Args:
        limit: How many of a data set's images may be unreadable before the run stops: a part of
            them, or a whole number. Defaults to 0.1.
        tries: How many images in a row may fail before the run stops: with a wrong path, all do.
            Defaults to 20.

    Raises:
        ValueError: If ``limit`` or ``tries`` is out of range.
    """

    priority = 'VERY_HIGH'

    def __init__(self, limit: float = 0.1, tries: int = 20) -> None:
        if isinstance(limit, bool) or not (0 <= limit <= 1 or (limit > 1 and limit == int(limit))):
            raise ValueError(f'limit={limit!r}: expected a part in [0, 1] or a number of images')
        if not isinstance(tries, int) or tries < 1:
            raise ValueError(f'tries={tries!r}: expected a number of images from 1')
        self.limit, self.tries = limit, tries
        self.unreadable: dict[str, dict[str, str]] = {}

    def before_train(self, runner: Runner) -> None:
        """Stands behind each loader, and looks for batches that BatchNorm can't train on."""
        self.unreadable = dict(runner.message_hub.get_info(_INFO) or {})
        loaders = train_loaders(runner.train_loop)
        names = ['train'] if len(loaders) == 1 else ['source', 'target', *map(str, range(2, 99))]
        for name, loader in zip(names, loaders):
            loader.tries = self.tries
            loader.on_faults = partial(self._take, runner, name, loader)
        if not loaders:
            print_log(
                f'BadImagesHook: {type(runner.train_loop).__name__} has a loader of its own kind: '
                'an image that cannot be read ends the run.',
                logger='current',
                level=logging.WARNING,
            )
        elif len(loaders) == 1:
            _check_last_batch(runner, loaders[0])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Checks the labels of the batch, which a GPU would complain of unintelligibly.

        Raises:
            ValueError: If the head has no such class.
        """
        if getattr(data_batch, 'checked', False):
            return  # when the cache of features was made
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        num_classes = getattr(getattr(model, 'head', None), 'num_classes', None)
        if not isinstance(num_classes, int):
            return
        for domain, part in parts(data_batch):
            if domain.split('/')[0] != 'target':  # its labels are dropped
                _check_labels(domain, part.get('data_samples') or [], num_classes)

    def after_train(self, runner: Runner) -> None:
        """Says what was left out."""
        for name, faults in self.unreadable.items():
            print_log(
                f'{len(faults)} {name} images could not be read on rank {get_dist_info()[0]} and '
                f'were replaced by others: {_listed(list(faults))}',
                logger='current',
                level=logging.WARNING,
            )

    def _take(
        self, runner: Runner, name: str, loader: ReplayableLoader, faults: list[Fault]
    ) -> None:
        known = self.unreadable.setdefault(name, {})
        for fault in faults:
            if fault.name not in known:
                known[fault.name] = fault.reason
                print_log(
                    f'Replaced unreadable {name} image number {len(known)}, {fault.name}: '
                    f'{fault.reason}',
                    logger='current',
                    level=logging.WARNING,
                )
        runner.message_hub.update_info(_INFO, {key: dict(v) for key, v in self.unreadable.items()})
        size = len(loader.dataset)
        allowed = self.limit * size if self.limit <= 1 else self.limit
        if len(known) > allowed:
            raise OSError(
                f'{len(known)} of {size} {name} images cannot be read, more than the limit of '
                f'{self.limit:g}: {_listed(list(known))}. Mend the data, or allow for it with '
                'BadImagesHook(limit=...)'
            )


def _listed(names: list[str], limit: int = 20) -> str:
    more = f', ... ({len(names) - limit} more)' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more


def _check_labels(domain: str, samples: list, num_classes: int) -> None:
    for place, sample in enumerate(samples):
        labels = sample.gt_label.tolist() if 'gt_label' in sample else []
        wrong = [label for label in labels if not 0 <= label < num_classes]
        if wrong:
            raise ValueError(
                f'label {wrong[0]} of {f"the {domain} image " if domain else ""}'
                f'{sample_name(sample, place)} is out of range: the head has {num_classes} '
                f'classes, 0 to {num_classes - 1}. Correct the annotation, or set '
                'model.head.num_classes'
            )


def _check_last_batch(runner: Runner, loader: ReplayableLoader) -> None:
    size, samples = loader.batch_size, len(loader.sampler)
    endless = isinstance(loader.sampler, InfiniteSampler)
    norms = [
        module
        for module in runner.model.modules()
        if isinstance(module, _BatchNorm) and any(p.requires_grad for p in module.parameters())
    ]
    if not size or samples % size != 1 or size == 1 or loader.drop_last or endless or not norms:
        return
    message = (
        f'the last batch of each epoch has 1 image ({samples} on this rank, batches of {size}), '
        f'and {len(norms)} BatchNorm layers train on it. Set train_dataloader.drop_last=True, or '
        'another batch_size'
    )
    if any(isinstance(module, nn.BatchNorm1d) for module in norms):
        raise ValueError(f'{message}: BatchNorm1d has no variance of one vector')
    print_log(f'{message[0].upper()}{message[1:]}.', logger='current', level=logging.WARNING)
