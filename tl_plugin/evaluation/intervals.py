"""How sure a measured accuracy is: 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

LEVEL = 0.95
#: What an interval is about, by how it was made.
METHODS = {
    'seeds': "Student's t over the seeds, for what other seeds would give",
    'images': "Wilson's over the test images of the one seed, for what other images would give; "
    'what another seed would give is not known',
}


def accuracy_interval(values: Sequence[float], images: int | None) -> list[float] | None:
    """The 95% confidence interval of a rung's accuracy.

    Over several seeds it is Student's t interval of their mean. One seed says nothing of the spread
    over seeds; then it is Wilson's score interval of the share of test images that are right
    (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927),
    which is right for shares near 100% too.

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
        right = round(values[0] * images / 100)
        found = stats.binomtest(right, images).proportion_ci(LEVEL, method='wilson')
        ends = (100 * found.low, 100 * found.high)
    else:
        return None
    return [round(min(max(float(end), 0.0), 100.0), 2) for end in ends]


def interval_method(seeds: int) -> str:
    """How the interval of so many seeds is made: a key of :data:`METHODS`."""
    return 'seeds' if seeds > 1 else 'images'


def as_text(interval: Sequence[float] | None) -> str:
    """
    >>> as_text([68.52, 73.48]), as_text(None)
    ('68.5 to 73.5', '')
    """
    return '' if interval is None else f'{interval[0]:.1f} to {interval[1]:.1f}'
