"""Images that can't be read: told apart from mistakes in the code, replaced, reported."""

from __future__ import annotations

import bisect
import struct
import zlib
from typing import Any, Callable, NamedTuple

import numpy as np

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
    """A sample that came in the place of others, and why."""

    sample: Any
    faults: list


class FaultyBatch(NamedTuple):
    """A batch on its way from a worker, with what was replaced in it."""

    batch: Any
    faults: list


class TolerantCollate:
    """Collates samples some of which are :class:`Replaced`.

    Args:
        collate: The loader's own function.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """Collates a list of samples, or converts a single one."""
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
    """Reads a sample, or another of the same domain where it can't be read.

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
            if not is_unreadable(error):
                raise
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


def is_unreadable(error: BaseException) -> bool:
    """Whether an exception tells of a file, not of a mistake in a transform or its settings.

    Args:
        error: What reading a sample raised.
    """
    return isinstance(error, _UNREADABLE) or _raised_in_loading(error)


def _raised_in_loading(error: BaseException) -> bool:
    """Decoders raise all kinds of errors, and mmcv asserts; the place tells more than the type."""
    step = error.__traceback__
    while step is not None:
        if type(step.tb_frame.f_locals.get('self')).__name__.startswith('Load'):
            return True
        step = step.tb_next
    return False


def image_name(dataset: Any, index: int) -> str:
    """Names a sample by its path where the data set knows it.

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
    """The range of indices that the same one of several joined data sets holds."""
    ends = getattr(dataset, 'cumulative_sizes', None) or [len(dataset)]
    place = bisect.bisect_right(ends, index)
    return (ends[place - 1] if place else 0), ends[place]
