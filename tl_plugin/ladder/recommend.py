"""Recommend a rung and say why: by validation alone, never by test labels."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from .records import Recommendation, RungResult

#: Rungs are chosen by target accuracy on validation images; where those have no labels, by a vote
#: of two scores, see :func:`tl_plugin.evaluation.choice.vote`, which is measured by
#: ``tools/benchmarks/recommendations.py --no-target-labels``; without the rungs'
#: outputs by a score.
TARGET_ACCURACY, TARGET_SCORE = 'target/accuracy/top1', 'target/label_free/information_maximization'
TARGET_VOTE = 'target/label_free/vote'
#: Share of resamples in which a rung has to be ahead of doing nothing, to be recommended without
#: labels.
SURE = 0.9
SOURCE_ACCURACY = 'source/accuracy/top1'
BASELINE = 'source_only'
#: Rungs that do as the baseline does about wrong labels: without them, or in spite of them.
CLEANED, ROBUST = 'cleaned', 'robust'

ADVICE = (
    'To know, look at the sample images, and label some of the target images, a few dozen of each '
    'class, in class folders or a CSV file: rungs are then chosen by accuracy.'
)

#: Maximum points on validation that a cheaper rung may be behind the best one and still be chosen.
TOLERANCE = 0.5


def recommend(
    rungs: Sequence[RungResult],
    budget_source: float | None = None,
    ahead: Mapping[str, float] = MappingProxyType({}),
) -> Recommendation | None:
    """Recommend the cheapest rung inside the budget that is as good as the best on validation.

    A rung is as good if it is behind by no more than one standard error over the seeds (Breiman et
    al., "Classification and Regression Trees", 1984, section 3.4.3) and by no more than
    :data:`TOLERANCE` points.

    Args:
        rungs: In order of cost. Only their ``seeds`` and ``validation`` are used.
        budget_source: Points of source accuracy that may be lost against ``source_only``. Defaults
            to None, no limit.
        ahead: Rung -> share of resamples in which the vote puts it ahead of ``source_only``. A rung
            that is so in less than :data:`SURE` of them isn't better than doing nothing, as far as
            can be said.

    Returns:
        The recommendation; None where no rung was validated on the target, see :func:`why_none`.

    Raises:
        ValueError: If the budget is negative.

    Example:
        >>> def row(name, source, target):
        ...     validation = {SOURCE_ACCURACY: [source], TARGET_ACCURACY: [target]}
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
    chosen = next(rung for rung in allowed if _as_good(rung, best, measure))
    unsure = measure == TARGET_VOTE and baseline is not None and chosen is not baseline
    if unsure and ahead.get(best.name, 0.0) < SURE:
        chosen = baseline
    return Recommendation(
        rung=chosen.name,
        reasons=[
            *_reasons(chosen, best, baseline, over, measure, budget_source, ahead),
            *cost_of_wrong_labels(rungs),
        ],
        measure=measure,
        ahead=ahead.get(best.name) if measure == TARGET_VOTE else None,
        frontier=[rung.name for rung in frontier(measured, measure)],
        over_budget=[rung.name for rung in over],
    )


def chosen_by(rungs: Sequence[RungResult]) -> str | None:
    """Return the metric to choose by: accuracy, or else the score that needs no labels."""
    measures = (TARGET_ACCURACY, TARGET_VOTE, TARGET_SCORE)
    return next((m for m in measures if any(_has(rung, m) for rung in rungs)), None)


def why_none(rungs: Sequence[RungResult]) -> str:
    """Explain why :func:`recommend` can't choose from the rungs."""
    names = {name for rung in rungs for name in rung.validation}
    given = sorted(name for name in names if name.startswith('target/'))
    if not rungs:
        return 'no rung has a result'
    if given:
        return (
            f'validation of the target gives {", ".join(given)}, and a rung is chosen by '
            f'{TARGET_ACCURACY}, which needs labels, or by {TARGET_SCORE}, which needs none: add '
            "dict(type='TargetValidator') to val_cfg.evaluators.target"
        )
    return (
        'nothing was validated on the target, and no rung is chosen by test images. Give val_cfg a '
        'domain target: val_cfg = dict(type="DomainValLoop", dataloaders=dict(target=dict('
        'dataset=...))), with labels or without'
    )


def within_budget(rungs: Sequence[RungResult], budget_source: float | None) -> list[RungResult]:
    """Select the rungs that lose no more of the source than allowed; ``source_only`` always is."""
    baseline = next((rung for rung in rungs if rung.name == BASELINE), None)
    limit = float('inf') if budget_source is None else budget_source
    return [rung for rung in rungs if _lost(rung, baseline) <= limit]


def frontier(rungs: Sequence[RungResult], measure: str = TARGET_ACCURACY) -> list[RungResult]:
    """Select the rungs that no other beats on source and target both, by rising source accuracy."""
    known = [rung for rung in rungs if _has(rung, measure) and _has(rung, SOURCE_ACCURACY)]
    places = {rung.name: (_mean(rung, SOURCE_ACCURACY), _mean(rung, measure)) for rung in known}

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
    """Return how many points of source accuracy on validation a rung is behind the baseline."""
    if baseline is None or not (_has(rung, SOURCE_ACCURACY) and _has(baseline, SOURCE_ACCURACY)):
        return 0.0
    return _mean(baseline, SOURCE_ACCURACY) - _mean(rung, SOURCE_ACCURACY)


def _as_good(rung: RungResult, best: RungResult, measure: str) -> bool:
    behind = _mean(best, measure) - _mean(rung, measure)
    # It isn't known what a difference of scores is worth.
    slack = _standard_error(rung, best, measure) if measure == TARGET_ACCURACY else 0.0
    return rung is best or behind <= min(TOLERANCE, slack)


def _standard_error(rung: RungResult, best: RungResult, measure: str) -> float:
    """Return that of the two rungs' difference, paired by seed; 0 where it can't be estimated."""
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
    ahead: Mapping[str, float],
) -> list[str]:
    by_accuracy = measure == TARGET_ACCURACY
    if measure == TARGET_VOTE:
        reasons = _by_vote(chosen, best, baseline, ahead.get(best.name, 0.0))
    else:
        reasons = (_by_accuracy if by_accuracy else _by_score)(chosen, best, baseline)
    if over:
        digits = 1 if by_accuracy else 2
        names = ', '.join(
            f'{rung.name} ({_mean(rung, measure):.{digits}f}, source -{_lost(rung, baseline):.1f})'
            for rung in over
        )
        reasons.append(f'Over the budget of {budget:g} points of source accuracy: {names}.')
    return reasons


def cost_of_wrong_labels(rungs: Sequence[RungResult]) -> list[str]:
    """Say what the source's wrong labels cost, where rungs did something about them.

    Args:
        rungs: With their validation.

    Returns:
        A sentence; none where it wasn't measured.
    """
    by_name = {rung.name: rung for rung in rungs}
    without = [by_name[name] for name in (CLEANED, ROBUST) if name in by_name]
    for domain, metric in (('target', TARGET_ACCURACY), ('source', SOURCE_ACCURACY)):
        known = [rung for rung in without if _has(rung, metric)]
        if not (known and BASELINE in by_name and _has(by_name[BASELINE], metric)):
            continue
        plain = _mean(by_name[BASELINE], metric)
        best = max(known, key=lambda rung: _mean(rung, metric))
        measured = ', '.join(f'{rung.name} {_mean(rung, metric):.1f}%' for rung in known)
        measured = f'{BASELINE} {plain:.1f}%, {measured}'
        if _mean(best, metric) <= plain:
            return [
                f"On the {domain} the source's wrong labels cost nothing that can be measured: "
                f'{measured} on its validation images.'
            ]
        return [
            f"The source's wrong labels cost {_mean(best, metric) - plain:.1f} points on the "
            f'{domain}, as far as can be told by doing without them: {measured} on its validation '
            'images.'
        ]
    return []


def _by_accuracy(chosen: RungResult, best: RungResult, baseline: RungResult | None) -> list[str]:
    reached = _mean(chosen, TARGET_ACCURACY)
    reasons = [
        f'On validation images {chosen.name} reaches {reached:.1f}% of the target images right.'
    ]
    if baseline is chosen:
        reasons.append('No more expensive rung inside the budget is measurably better.')
    elif baseline is not None:
        gain = reached - _mean(baseline, TARGET_ACCURACY)
        reasons.append(
            f'That is {gain:+.1f} points against no adaptation, and {_price(chosen, baseline)}.'
        )
    if best is not chosen:
        ahead = _mean(best, TARGET_ACCURACY) - reached
        reasons.append(
            f'{best.name} is ahead by {ahead:.1f} points, within the noise of the seeds, and '
            'takes more work.'
        )
    return reasons


def _by_vote(
    chosen: RungResult, best: RungResult, baseline: RungResult | None, ahead: float
) -> list[str]:
    reasons = [
        "The target's validation images have no labels, so it is not known how many of them any "
        f'rung gets right. Of all rungs {best.name} has the best vote of two label-free scores: '
        'how often it predicts the class that all rungs together find likeliest, and how likely it '
        'and the others are to name the same class.'
    ]
    if best is baseline:
        reasons.append('No more expensive rung inside the budget has a better one.')
    elif baseline is not None:
        share = f'In {100 * ahead:.0f}% of resamples of the images it is ahead of {BASELINE}'
        if chosen is baseline:
            reasons.append(
                f'{share}, which is too few of them: as far as can be said without labels, no rung '
                'is better than doing nothing.'
            )
        else:
            reasons.append(f'{share}, and {_price(chosen, baseline)}.')
    return [
        *reasons,
        'This is a weak reason. Rungs that make the same mistakes agree, too, and the vote can '
        'prefer a rung that is worse than no adaptation.',
        ADVICE,
    ]


def _by_score(chosen: RungResult, best: RungResult, baseline: RungResult | None) -> list[str]:
    reached = (
        "The target's validation images have no labels, so it is not known how many of them any "
        f'rung gets right. Of all rungs {chosen.name} has the best label-free score on them, '
        f'{_mean(chosen, TARGET_SCORE):.2f}'
    )
    if baseline not in (None, chosen):
        before = _mean(baseline, TARGET_SCORE)
        reached += f', against {before:.2f} without adaptation, and {_price(chosen, baseline)}'
    reasons = [f'{reached}.']
    if baseline is chosen:
        reasons.append('No more expensive rung inside the budget has a better one.')
    return [
        *reasons,
        'This is a weak reason. The score (information maximization) is high where predictions are '
        'confident and spread over the classes; a model can be both and wrong, and the score can '
        'prefer a rung that is worse than no adaptation.',
        ADVICE,
    ]


def _price(chosen: RungResult, baseline: RungResult) -> str:
    """Describe what a rung costs the source, as a part of a sentence."""
    if not (_has(chosen, SOURCE_ACCURACY) and _has(baseline, SOURCE_ACCURACY)):
        return 'what it costs on the source was not validated'
    lost = _lost(chosen, baseline)
    return f'it costs {f"{lost:.1f} points" if lost > 0 else "nothing"} on the source'
