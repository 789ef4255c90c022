"""Numbers with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 500


class Estimate(NamedTuple):
    """A number and its 95% bootstrap interval.

    Args:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def estimate(
    value: float, replicates: np.ndarray, lowest: float = -np.inf, highest: float = np.inf
) -> Estimate:
    """Make an interval of what resampling gave.

    The basic bootstrap interval, ``[2 v - q(.975), 2 v - q(.025)]`` (Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997): where resampling inflates a statistic, as it
    does distances, it moves back, which the plain quantiles wouldn't.

    Args:
        value: The statistic of the data.
        replicates: The statistic of each resample.
        lowest: No statistic of its kind is smaller.
        highest: Nor larger.

    Example:
        >>> estimate(2.0, np.linspace(1.0, 4.0, 1001), lowest=0.5)
        Estimate(value=2.0, low=0.5, high=2.925)
    """
    low, high = np.quantile(replicates, [0.025, 0.975])
    ends = np.clip([2 * value - high, 2 * value - low], lowest, highest)
    return Estimate(float(np.clip(value, lowest, highest)), *(float(end) for end in ends))


def resampled(count: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of ``count`` images is drawn, ``(resamples, count)``."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)
