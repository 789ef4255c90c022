"""Replace images that can't be read, count and report them; mistakes in the code still raise."""

from __future__ import annotations

import bisect
import logging
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.datasets.wrappers import locate
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import checked

_INFO = 'unreadable_images'

#: What decoders and file systems raise. PIL's own error is an OSError, and a broken PNG raises a
#: SyntaxError.
_UNREADABLE = (OSError, EOFError, SyntaxError, struct.error, zlib.error)


class Fault(NamedTuple):
    """One image that couldn't be read.

    Args:
        name: Its path, or the data set and the index.
        reason: What went wrong.
    """

    name: str
    reason: str


class Replaced(NamedTuple):
    """A sample that replaces others, and why."""

    sample: Any
    faults: list


class FaultyBatch(NamedTuple):
    """A batch from a worker, with the images that were replaced in it."""

    batch: Any
    faults: list


class TolerantCollate:
    """Collate samples, some of which are :class:`Replaced`.

    Args:
        collate: The loader's own function.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """Collate a list of samples, or convert a single one."""
        if not isinstance(samples, list):
            samples = [samples]
            batch = self.collate(_sample(samples[0]))
        else:
            batch = self.collate([_sample(sample) for sample in samples])
        faults = [fault for s in samples if isinstance(s, Replaced) for fault in s.faults]
        return FaultyBatch(batch, faults) if faults else batch


def _sample(sample: Any) -> Any:
    return sample.sample if isinstance(sample, Replaced) else sample


def read_or_replace(dataset: Any, index: int, tries: int) -> Any:
    """Read a sample, or another of the same domain where it can't be read.

    The others are drawn from numpy's global generator, which the caller has seeded for this sample.

    Args:
        dataset: A data set; of several joined ones, the substitute comes from the same.
        index: Which sample.
        tries: How many others to try.

    Returns:
        The sample, or a :class:`Replaced`.

    Raises:
        OSError: If none of the others can be read either.
    """
    faults = []
    for _ in range(tries + 1):
        try:
            sample = dataset[index]
        except Exception as error:
            if not isinstance(error, _UNREADABLE) and not _loading_fails(dataset, index):
                raise  # a mistake in a transform or its settings
            reason = ' '.join(f'{type(error).__name__}: {error}'.split())  # decoders break lines
            faults.append(Fault(image_name(dataset, index), reason))
            last = error
        else:
            return Replaced(sample, faults) if faults else sample
        first, end = _domain(dataset, index)
        index = int(np.random.randint(first, end))
    raise OSError(
        f'{len(faults)} images in a row could not be read, {faults[0].name} and '
        f'{faults[-1].name} among them ({faults[-1].reason}): check data_root and data_prefix'
    ) from last


def _loading_fails(dataset: Any, index: int) -> bool:
    """Return whether reading an image fails by itself, without the transforms that follow."""
    try:
        inner, place = locate(dataset, index)
        data, transforms = inner.get_data_info(place), inner.pipeline.transforms
    except Exception:
        return False  # a data set without a pipeline, or an error in its annotations
    return loading_error(data, transforms) is not None


def loading_error(data: Any, transforms: Iterable[Callable]) -> Exception | None:
    """Read an image with the loading transforms alone, and return what they raise.

    Decoders raise all kinds of errors, and mmcv asserts, so that the type of an error says little.

    Args:
        data: What the pipeline begins with.
        transforms: Of the pipeline; those named ``Load...`` are called.

    Returns:
        The error; None if the image can be read.
    """
    try:
        for transform in transforms:
            if type(transform).__name__.startswith('Load'):
                data = transform(data)
    except Exception as error:
        return error
    return None


def image_name(dataset: Any, index: int) -> str:
    """Name a sample by its path where the data set knows it.

    Args:
        dataset: A data set, also one that wraps others.
        index: Which sample.
    """
    try:
        info = dataset.get_data_info(index)
        return str(info['img_path'])
    except (AttributeError, KeyError, TypeError, NotImplementedError):
        return f'image {index} of {type(dataset).__name__}'


def _domain(dataset: Any, index: int) -> tuple[int, int]:
    """Return the range of indices of the joined data set that an index belongs to."""
    ends = getattr(dataset, 'cumulative_sizes', None) or [len(dataset)]
    place = bisect.bisect_right(ends, index)
    return (ends[place - 1] if place else 0), ends[place]


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Replace training images that are broken or have vanished.

    An image that can't be read is named in the log, counted once, and replaced by another of the
    same data set (of several joined ones, from the same one), chosen as a function of seed and
    position. Batches keep their size, so that the ranks of a distributed run stay in step. An error
    in a transform still ends the run. The count goes into the checkpoints.

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
        """Let each loader replace what can't be read, and report it here."""
        from .replayable_loader import train_loaders  # which reads by the functions above

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
        """Report which images were replaced."""
        for name, faults in self.unreadable.items():
            print_log(
                f'{len(faults)} {name} images could not be read on rank {get_dist_info()[0]} and '
                f'were replaced by others: {short_list(list(faults), 20)}',
                logger='current',
                level=logging.WARNING,
            )

    def _take(self, runner: Runner, name: str, loader: Any, faults: list[Fault]) -> None:
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
                f'{self.limit:g}: {short_list(list(known), 20)}. Fix the data, or allow for it '
                'with BadImagesHook(limit=...)'
            )
