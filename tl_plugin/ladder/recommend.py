"""Which rung to take, and why: from validation alone, never from test labels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .records import Recommendation, RungResult

#: Target accuracy on validation images chooses; where those have no labels, this score does, fixed
#: before anything was measured with it.
ACCURACY, SCORE = 'target/accuracy/top1', 'target/label_free/information_maximization'
SOURCE = 'source/accuracy/top1'
BASELINE = 'source_only'

#: Most points on validation that a cheaper rung may be behind the best one and still be taken.
TOLERANCE = 0.5


def recommend(
    rungs: Sequence[RungResult], budget_source: float | None = None
) -> Recommendation | None:
    """Choose a rung by what it reaches on validation images.

    Of the rungs inside the budget it is the cheapest one that isn't measurably behind the best: by
    no more than one standard error over the seeds (Breiman et al., "Classification and Regression
    Trees", 1984, section 3.4.3), and by no more than :data:`TOLERANCE` points.

    Args:
        rungs: In order of cost. Their ``seeds`` and ``validation`` alone count.
        budget_source: Points of source accuracy that may be lost against ``source_only``. None
            sets no limit.

    Returns:
        The recommendation; None where no rung was validated on the target, see :func:`why_none`.

    Raises:
        ValueError: If the budget is negative.

    Example:
        >>> def row(name, source, target):
        ...     validation = {SOURCE: [source], ACCURACY: [target]}
        ...     return RungResult(name, validation=validation)
        >>> rows = [row('source_only', 99, 60), row('fine_tune', 90, 85), row('dann', 98.5, 80)]
        >>> recommend(rows).rung, recommend(rows, budget_source=1).rung
        ('fine_tune', 'dann')
    """
    if budget_source is not None and budget_source < 0:
        raise ValueError(f'budget_source is in points, at least 0, got {budget_source}')
    measure = chosen_by(rungs)
    if measure is None:
        return None
    measured = [rung for rung in rungs if _has(rung, measure)]
    baseline = next((rung for rung in measured if rung.name == BASELINE), None)
    allowed = within_budget(measured, budget_source)
    over = [rung for rung in measured if rung not in allowed]
    best = max(allowed, key=lambda rung: _mean(rung, measure))
    chosen = next(rung for rung in allowed if _keeps_up(rung, best, measure))
    return Recommendation(
        rung=chosen.name,
        reasons=_reasons(chosen, best, baseline, over, measure, budget_source),
        measure=measure,
        frontier=[rung.name for rung in frontier(measured, measure)],
        over_budget=[rung.name for rung in over],
    )


def chosen_by(rungs: Sequence[RungResult]) -> str | None:
    """The validation metric that chooses: accuracy, or else the score that needs no labels."""
    return next((m for m in (ACCURACY, SCORE) if any(_has(rung, m) for rung in rungs)), None)


def why_none(rungs: Sequence[RungResult]) -> str:
    """Say why there is no recommendation for rungs that :func:`recommend` can't choose from."""
    names = {name for rung in rungs for name in rung.validation}
    given = sorted(name for name in names if name.startswith('target/'))
    if not rungs:
        return 'no rung has a result'
    if given:
        return (
            f'validation of the target gives {", ".join(given)}, and a rung is chosen by '
            f'{ACCURACY}, which needs labels, or {SCORE}, which a LabelFreeScore among '
            'val_cfg.evaluators.target gives'
        )
    return (
        'nothing was validated on the target, and test images never choose. Give val_cfg a domain '
        'target: val_cfg = dict(type="DomainValLoop", dataloaders=dict(target=dict(dataset=...))), '
        'with labels or without'
    )


def within_budget(rungs: Sequence[RungResult], budget_source: float | None) -> list[RungResult]:
    """The rungs that lose no more of the source than allowed; ``source_only`` always is one."""
    baseline = next((rung for rung in rungs if rung.name == BASELINE), None)
    limit = float('inf') if budget_source is None else budget_source
    return [rung for rung in rungs if _lost(rung, baseline) <= limit]


def frontier(rungs: Sequence[RungResult], measure: str = ACCURACY) -> list[RungResult]:
    """The rungs that no other one beats on source and target both, by rising source accuracy."""
    known = [rung for rung in rungs if _has(rung, measure) and _has(rung, SOURCE)]
    places = {rung.name: (_mean(rung, SOURCE), _mean(rung, measure)) for rung in known}

    def beaten(place: tuple[float, float]) -> bool:
        return any(
            other != place and other[0] >= place[0] and other[1] >= place[1]
            for other in places.values()
        )

    kept = [rung for rung in known if not beaten(places[rung.name])]
    return sorted(kept, key=lambda rung: places[rung.name])


def _has(rung: RungResult, metric: str) -> bool:
    return bool(rung.validation.get(metric))


def _mean(rung: RungResult, metric: str) -> float:
    return statistics.fmean(rung.validation[metric])


def _lost(rung: RungResult, baseline: RungResult | None) -> float:
    """Points of source accuracy that a rung is behind the baseline, on validation images."""
    if baseline is None or not (_has(rung, SOURCE) and _has(baseline, SOURCE)):
        return 0.0
    return _mean(baseline, SOURCE) - _mean(rung, SOURCE)


def _keeps_up(rung: RungResult, best: RungResult, measure: str) -> bool:
    if rung is best:
        return True
    behind = _mean(best, measure) - _mean(rung, measure)
    if measure != ACCURACY:
        return behind <= 0  # what a difference of scores is worth isn't known
    return behind <= min(TOLERANCE, _standard_error(rung, best, measure))


def _standard_error(rung: RungResult, best: RungResult, measure: str) -> float:
    """Of the difference of two rungs, seed by seed; without a spread to go by there is no slack."""
    pairs = list(zip(rung.validation[measure], best.validation[measure]))
    if rung.seeds != best.seeds or len(pairs) < 2:
        return 0.0
    return statistics.stdev(a - b for a, b in pairs) / len(pairs) ** 0.5


def _reasons(
    chosen: RungResult,
    best: RungResult,
    baseline: RungResult | None,
    over: Sequence[RungResult],
    measure: str,
    budget: float | None,
) -> list[str]:
    by_accuracy = measure == ACCURACY
    reasons = (_by_accuracy if by_accuracy else _by_score)(chosen, best, baseline)
    if over:
        digits = 1 if by_accuracy else 2
        names = ', '.join(
            f'{rung.name} ({_mean(rung, measure):.{digits}f}, source -{_lost(rung, baseline):.1f})'
            for rung in over
        )
        reasons.append(f'Over the budget of {budget:g} points of source accuracy: {names}.')
    return reasons


def _by_accuracy(chosen: RungResult, best: RungResult, baseline: RungResult | None) -> list[str]:
    reached = _mean(chosen, ACCURACY)
    reasons = [
        f'On validation images {chosen.name} reaches {reached:.1f}% of the target images right.'
    ]
    if baseline is chosen:
        reasons.append('No dearer rung inside the budget gains measurably on it.')
    elif baseline is not None:
        gain = reached - _mean(baseline, ACCURACY)
        reasons.append(
            f'That is {gain:+.1f} points against doing nothing, and {_price(chosen, baseline)}.'
        )
    if best is not chosen:
        ahead = _mean(best, ACCURACY) - reached
        reasons.append(
            f'{best.name} is ahead by {ahead:.1f} points, within the noise of the seeds, and '
            'takes more work.'
        )
    return reasons


def _by_score(chosen: RungResult, best: RungResult, baseline: RungResult | None) -> list[str]:
    reached = f'{_mean(chosen, SCORE):.2f}'
    reasons = [
        "The target's validation images have no labels, so nobody knows how many of them any rung "
        f'gets right. Of all rungs {chosen.name} has the best label-free score on them, {reached}'
        + (
            '.'
            if baseline in (None, chosen)
            else f', against {_mean(baseline, SCORE):.2f} of doing nothing, and '
            f'{_price(chosen, baseline)}.'
        )
    ]
    if baseline is chosen:
        reasons.append('No more expensive rung inside the budget has a better one.')
    reasons.append(
        'This is a weak reason. The score (information maximization) is high where predictions are '
        'confident and spread over the classes; a model can be both and wrong, and the score can '
        'prefer a rung that is worse than doing nothing.'
    )
    reasons.append(
        'To know, look at the sample images, and label some of the target images, a few dozen of '
        'each class, in class folders or a CSV file: rungs are then chosen by accuracy.'
    )
    return reasons


def _price(chosen: RungResult, baseline: RungResult) -> str:
    """What a rung costs the source, as a sentence's part."""
    if not (_has(chosen, SOURCE) and _has(baseline, SOURCE)):
        return 'what it costs on the source was not validated'
    lost = _lost(chosen, baseline)
    return f'it costs {f"{lost:.1f} points" if lost > 0 else "nothing"} on the source'
