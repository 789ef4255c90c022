"""Which rung to take, and why: from validation alone, never from test labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Target accuracy on validation images chooses; where those have no labels, this score does, fixed
#: before anything was measured with it.
ACCURACY, SCORE = 'target/accuracy/top1', 'target/label_free/information_maximization'
SOURCE = 'source/accuracy/top1'
BASELINE = 'source_only'

#: Most points on validation that a cheaper rung may be behind the best one and still be taken.
TOLERANCE = 0.5


@dataclass(frozen=True)
class Recommendation:
    """The rung to take.

    Args:
        rung: Its name.
        reasons: In sentences, for somebody who doesn't train networks.
        measure: The validation metric that chose.
        frontier: Rungs that no other one beats on source and target both, by rising source.
        over_budget: Rungs that lose more of the source than the budget allows.
    """

    rung: str
    reasons: list[str]
    measure: str
    frontier: list[str] = field(default_factory=list)
    over_budget: list[str] = field(default_factory=list)


def recommend(rungs: Sequence[dict], budget_source: float | None = None) -> Recommendation | None:
    """Choose a rung by what it reaches on validation images.

    Of the rungs inside the budget it is the cheapest one that isn't measurably behind the best: by
    no more than one standard error over the seeds (Breiman et al., "Classification and Regression
    Trees", 1984, section 3.4.3), and by no more than :data:`TOLERANCE` points.

    Args:
        rungs: Rows of results.json, in order of cost, each with ``name``, ``seeds`` and
            ``validation``, a dict metric -> values by seed.
        budget_source: Points of source accuracy that may be lost against ``source_only``. None
            sets no limit.

    Returns:
        The recommendation; None where no rung was validated on the target.

    Raises:
        ValueError: If the budget is negative.

    Example:
        >>> def row(name, source, target):
        ...     validation = {SOURCE: [source], ACCURACY: [target]}
        ...     return dict(name=name, seeds=[0], validation=validation)
        >>> rows = [row('source_only', 99, 60), row('fine_tune', 90, 85), row('dann', 98.5, 80)]
        >>> recommend(rows).rung, recommend(rows, budget_source=1).rung
        ('fine_tune', 'dann')
    """
    if budget_source is not None and budget_source < 0:
        raise ValueError(f'budget_source is in points, at least 0, got {budget_source}')
    measure = next((m for m in (ACCURACY, SCORE) if any(_has(r, m) for r in rungs)), None)
    measured = [rung for rung in rungs if measure and _has(rung, measure)]
    if not measured:
        return None
    baseline = next((rung for rung in measured if rung['name'] == BASELINE), None)
    allowed = within_budget(measured, budget_source)
    over = [rung for rung in measured if rung not in allowed]
    best = max(allowed, key=lambda rung: _mean(rung, measure))
    chosen = next(rung for rung in allowed if _keeps_up(rung, best, measure))
    return Recommendation(
        rung=chosen['name'],
        reasons=_reasons(chosen, best, baseline, over, measure, budget_source),
        measure=measure,
        frontier=[rung['name'] for rung in frontier(measured, measure)],
        over_budget=[rung['name'] for rung in over],
    )


def within_budget(rungs: Sequence[dict], budget_source: float | None) -> list[dict]:
    """The rungs that lose no more of the source than allowed; ``source_only`` always is one."""
    baseline = next((rung for rung in rungs if rung['name'] == BASELINE), None)
    limit = float('inf') if budget_source is None else budget_source
    return [rung for rung in rungs if _lost(rung, baseline) <= limit]


def frontier(rungs: Sequence[dict], measure: str = ACCURACY) -> list[dict]:
    """The rungs that no other one beats on source and target both, by rising source accuracy."""
    known = [rung for rung in rungs if _has(rung, measure) and _has(rung, SOURCE)]
    places = {rung['name']: (_mean(rung, SOURCE), _mean(rung, measure)) for rung in known}

    def beaten(place: tuple[float, float]) -> bool:
        return any(
            other != place and other[0] >= place[0] and other[1] >= place[1]
            for other in places.values()
        )

    kept = [rung for rung in known if not beaten(places[rung['name']])]
    return sorted(kept, key=lambda rung: places[rung['name']])


def _has(rung: dict, metric: str) -> bool:
    return bool((rung.get('validation') or {}).get(metric))


def _mean(rung: dict, metric: str) -> float:
    return statistics.fmean(rung['validation'][metric])


def _lost(rung: dict, baseline: dict | None) -> float:
    """Points of source accuracy that a rung is behind the baseline, on validation images."""
    if baseline is None or not (_has(rung, SOURCE) and _has(baseline, SOURCE)):
        return 0.0
    return _mean(baseline, SOURCE) - _mean(rung, SOURCE)


def _keeps_up(rung: dict, best: dict, measure: str) -> bool:
    if rung is best:
        return True
    behind = _mean(best, measure) - _mean(rung, measure)
    if measure != ACCURACY:
        return behind <= 0  # what a difference of scores is worth isn't known
    return behind <= min(TOLERANCE, _standard_error(rung, best, measure))


def _standard_error(rung: dict, best: dict, measure: str) -> float:
    """Of the difference of two rungs, seed by seed; without a spread to go by there is no slack."""
    pairs = list(zip(rung['validation'][measure], best['validation'][measure]))
    if rung['seeds'] != best['seeds'] or len(pairs) < 2:
        return 0.0
    return statistics.stdev(a - b for a, b in pairs) / len(pairs) ** 0.5


def _reasons(
    chosen: dict,
    best: dict,
    baseline: dict | None,
    over: Sequence[dict],
    measure: str,
    budget: float | None,
) -> list[str]:
    unit = '% of the target images right' if measure == ACCURACY else ' in the label-free score'
    reasons = [
        f'On validation images {chosen["name"]} reaches {_mean(chosen, measure):.1f}{unit}.'
        if measure == ACCURACY
        else f'The target has no labels to validate by: {chosen["name"]} has the best label-free '
        f'score ({_mean(chosen, measure):.2f}), a weaker reason than accuracy.'
    ]
    if baseline is chosen:
        reasons.append('No dearer rung inside the budget gains measurably on it.')
    elif baseline is not None and measure == ACCURACY:
        gain = _mean(chosen, measure) - _mean(baseline, measure)
        lost = _lost(chosen, baseline)
        price = f'costs {lost:.1f} points' if lost > 0 else 'costs nothing'
        reasons.append(
            f'That is {gain:+.1f} points against doing nothing, and {price} on the source.'
        )
    if best is not chosen:
        ahead = _mean(best, measure) - _mean(chosen, measure)
        reasons.append(
            f'{best["name"]} is ahead by {ahead:.1f} points, within the noise of the seeds, and '
            'takes more work.'
        )
    if over:
        names = ', '.join(
            f'{rung["name"]} ({_mean(rung, measure):.1f}, source -{_lost(rung, baseline):.1f})'
            for rung in over
        )
        reasons.append(f'Over the budget of {budget:g} points of source accuracy: {names}.')
    return reasons
