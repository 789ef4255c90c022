"""Keeps the memory of one step for the next."""

from __future__ import annotations

import ctypes
import functools
import os

from torch import nn

# glibc's numbers for mallopt(), which no header gives to Python.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Blocks up to this size come from the heap; one activation of a large batch is far below.
LARGEST = 2**30
_SETTINGS = (
    'MALLOC_MMAP_THRESHOLD_',
    'MALLOC_TRIM_THRESHOLD_',
    'MALLOC_MMAP_MAX_',
    'GLIBC_TUNABLES',
)


def keep_freed_memory(model: nn.Module) -> bool:
    """Lets the C library keep large blocks that are freed, where a model trains on a CPU.

    By itself glibc gives every block above 32 MB back to the system, and has it zeroed page by page
    when the next step asks for it again: an activation of 48 images is above, one of 24 is not, and
    a joint batch of two domains takes a fifth longer than its arithmetic. The process keeps what it
    has needed at its peak. Whoever has set glibc's own variables (``MALLOC_MMAP_THRESHOLD_`` and
    the like) is left alone, and so are other C libraries.

    Args:
        model: What trains.

    Returns:
        Whether it is so.
    """
    on_cpu = all(value.device.type == 'cpu' for value in model.parameters())
    if not on_cpu or any(name in os.environ for name in _SETTINGS):
        return False
    return _set_thresholds()


@functools.cache
def _set_thresholds() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
