"""Lets a run live with some images that can't be read."""

from __future__ import annotations

import logging
from functools import partial

from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.options import checked

from .bad_images import Fault
from .replayable_loader import ReplayableLoader, train_loaders

_INFO = 'unreadable_images'


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Replaces training images that are broken or have vanished.

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

    @checked
    def __init__(self, limit: float = 0.1, tries: int = 20) -> None:
        if isinstance(limit, bool) or not (0 <= limit <= 1 or (limit > 1 and limit == int(limit))):
            raise ValueError(f'limit={limit!r}: expected a part in [0, 1] or a number of images')
        if not isinstance(tries, int) or tries < 1:
            raise ValueError(f'tries={tries!r}: expected a number of images from 1')
        self.limit, self.tries = limit, tries
        self.unreadable: dict[str, dict[str, str]] = {}

    def before_train(self, runner: Runner) -> None:
        """Stands behind each loader."""
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
