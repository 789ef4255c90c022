"""Random numbers as a pure function of the position in a run, so that nothing has to be saved."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
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


def stem_from(*key: int) -> int:
    """Derive the 64 bits that the seeds of all samples of a pass follow from.

    >>> stem_from(0, 1, 2) == stem_from(0, 1, 2), stem_from(0, 1, 2) == stem_from(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seeds_at(stem: int, positions: Sequence[int]) -> list[list[int]]:
    """Derive three independent 32-bit seeds for each of many positions at once.

    A counter of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014), so that a position's seeds depend on no other position. A ``SeedSequence`` for
    each takes as long as seeding the generators.

    Args:
        stem: Of the pass, see :func:`stem_from`.
        positions: In the pass, from 0.

    >>> seeds_at(7, [3]) == seeds_at(7, range(10))[3:4]
    True
    """
    at = 2 * np.array(positions, dtype=np.uint64)[:, None] + np.array([1, 2], dtype=np.uint64)
    words = np.uint64(stem) + at * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words.view(np.uint32)[:, :3].tolist()


def seed_generators(for_python: int, for_numpy: int, for_torch: int) -> None:
    """Seed Python, numpy and torch's CPU generator: all that a data pipeline draws from.

    ``torch.manual_seed`` would also queue a call for every GPU, in each worker and for each image.
    """
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)


def seed_process(*key: int) -> None:
    """Seed Python, numpy and torch on all devices: mixup, dropout, stochastic depth."""
    seeds = seeds_from(*key)
    seed_generators(*seeds)
    if _has_gpu():
        torch.cuda.manual_seed_all(seeds[2])


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
