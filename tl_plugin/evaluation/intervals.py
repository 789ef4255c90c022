"""How sure a figure is: 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 500
#: What an interval is about, by how it was made.
METHODS = {
    'seeds': "Student's t over the seeds, for what other seeds would give",
    'images': "Wilson's over the test images of the one seed, for what other images would give; "
    'what another seed would give is not known',
}


class Estimate(NamedTuple):
    """A number and its 95% confidence interval.

    Args:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def accuracy_interval(values: Sequence[float], images: int | None) -> list[float] | None:
    """Return the 95% confidence interval of a rung's accuracy.

    Over several seeds it is Student's t interval of their mean. One seed says nothing of the spread
    over seeds; then it is the interval of :func:`share_estimate` over the test images.

    Args:
        values: Accuracy of each seed, in percent.
        images: Number of test images; None where it isn't known.

    Returns:
        Lower and upper end in percent, inside [0, 100]; None for one seed and no images.

    Example:
        >>> accuracy_interval([70.0, 72.0, 71.0], None), accuracy_interval([90.0], 100)
        ([68.52, 73.48], [82.56, 94.48])
    """
    from scipy import stats

    if len(values) > 1:
        mean, error = fmean(values), stats.sem(values)
        # Seeds that agree to the last digit have no spread to make an interval of.
        ends = stats.t.interval(LEVEL, len(values) - 1, mean, error) if error else (mean, mean)
    elif images:
        found = share_estimate(round(values[0] * images / 100), images)
        ends = (100 * found.low, 100 * found.high)
    else:
        return None
    return [round(min(max(float(end), 0.0), 100.0), 2) for end in ends]


def interval_method(seeds: int) -> str:
    """Return how the interval of so many seeds is made: a key of :data:`METHODS`."""
    return 'seeds' if seeds > 1 else 'images'


def interval_text(interval: Sequence[float] | None) -> str:
    """Write an interval for a table.

    >>> interval_text([68.52, 73.48]), interval_text(None)
    ('68.5 to 73.5', '')
    """
    return '' if interval is None else f'{interval[0]:.1f} to {interval[1]:.1f}'


def share_estimate(count: int, total: int) -> Estimate:
    """Estimate a share with Wilson's score interval, which is right for shares near 0 and 1 too.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    Args:
        count: How many of the ``total`` count, such as images with a correct prediction.
        total: At least 1.

    Example:
        >>> tuple(round(float(end), 3) for end in share_estimate(90, 100))
        (0.9, 0.826, 0.945)
    """
    from scipy import stats

    ends = stats.binomtest(int(count), int(total)).proportion_ci(LEVEL, method='wilson')
    return Estimate(float(count / total), float(ends.low), float(ends.high))


def bootstrap_estimate(
    statistic: Callable[..., np.ndarray],
    *samples: np.ndarray,
    rng: np.random.Generator,
    lowest: float = -np.inf,
    highest: float = np.inf,
) -> Estimate:
    """Estimate a statistic of independent samples, with the interval of :func:`estimate`.

    Args:
        statistic: Takes the samples and ``axis``, along which it works.
        *samples: 1-d, at least two values each.
        rng: Of the resamples.
        lowest: No statistic of its kind is smaller.
        highest: Nor larger.
    """
    from scipy import stats

    settings = dict(n_resamples=RESAMPLES, batch=50, method='basic', vectorized=True)
    found = stats.bootstrap(samples, statistic, random_state=rng, **settings)
    value = float(statistic(*samples, axis=-1))
    return estimate(value, found.bootstrap_distribution, lowest, highest)


def estimate(
    value: float, replicates: np.ndarray, lowest: float = -np.inf, highest: float = np.inf
) -> Estimate:
    """Return the interval of a statistic that was computed on resamples.

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


def percentile_estimate(values: np.ndarray) -> Estimate:
    """Return the first value, with the 95% interval of the others, which are its resamples."""
    return Estimate(float(values[0]), *map(float, np.quantile(values[1:], [0.025, 0.975])))


def resample_counts(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of ``count`` images is in each resample, ``(RESAMPLES, count)``."""
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
