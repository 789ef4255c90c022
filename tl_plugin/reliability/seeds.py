"""Random numbers as a pure function of the position in a run, so that nothing has to be saved."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: Independent streams of random numbers: the samples of each loader, the order within a pass, and
#: the main process.
SOURCE_STREAM, TARGET_STREAM = 0, 1
ORDER, MODEL = 2**31, 2**31 + 1


def seeds_from(*key: int) -> list[int]:
    """Derive three independent 32-bit seeds from a few non-negative numbers.

    >>> seeds_from(0, 1, 2) == seeds_from(0, 1, 2), seeds_from(0, 1, 2) == seeds_from(0, 2, 1)
    (True, False)
    """
    return np.random.SeedSequence(key).generate_state(3).tolist()


def seed_sample(*key: int) -> None:
    """Seed Python, numpy and torch's CPU generator: all that a data pipeline draws from.

    ``torch.manual_seed`` would also queue a call for every GPU, in each worker and for each image.
    """
    for_python, for_numpy, for_torch = seeds_from(*key)
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)


def seed_process(*key: int) -> None:
    """Seed Python, numpy and torch on all devices: mixup, dropout, stochastic depth."""
    seed_sample(*key)
    if _has_gpu():
        torch.cuda.manual_seed_all(seeds_from(*key)[2])


@contextmanager
def generators_kept() -> Iterator[None]:
    """Restore the state of all random number generators at the end."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@functools.cache
def _has_gpu() -> bool:
    """Ask the driver once, not in every iteration."""
    return torch.cuda.is_available()
