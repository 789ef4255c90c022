"""Choose among measured mixes of models, by validation alone, and write them down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tl_plugin.reliability.files import write_json, write_whole
from tl_plugin.reporting.plots import plot_interpolation

RULES = ('budget', 'mean')
#: The metric of a target whose validation images have no labels.
LABEL_FREE = 'label_free/information_maximization'


class Point(NamedTuple):
    """One interpolated model and its validation metrics.

    Attributes:
        alpha: Weight of the adapted model or models: 0 is the source model, 1 without it.
        source: Metric on source validation images, in percent.
        target: Metric on target validation images, in percent; a label-free score where they have
            no labels.
        statistics: Where the batch norms' statistics come from: 'estimated' at this alpha,
            'interpolated' like weights, or the checkpoint's 'own'.
        models: Names of the models whose mean it is, in a soup.
    """

    alpha: float
    source: float
    target: float
    statistics: str
    models: tuple[str, ...] = ()


class Choice(NamedTuple):
    """The chosen point and the reason."""

    point: Point
    why: str


def choose(
    points: Sequence[Point],
    rule: str = 'budget',
    budget: float = 1.0,
    target_metric: str = 'accuracy/top1',
) -> Choice:
    """Choose a point by validation alone.

    Args:
        points: The points of a sweep, the source model with its own statistics included.
        rule: 'budget': best on the target among those that lose at most ``budget`` points of the
            source model's source accuracy; of equals the better one on the source. 'mean': the
            best mean of both.
        budget: In percentage points. Defaults to 1.
        target_metric: The metric of the points' ``target``. Defaults to 'accuracy/top1'.

    Returns:
        The point and the reason.

    Raises:
        ValueError: If the rule is unknown, the budget is negative, or 'mean' would average an
            accuracy and a score.
    """
    check_rule(rule, budget)
    labelled = target_metric != LABEL_FREE
    if rule == 'mean' and not labelled:
        raise ValueError(
            "rule 'mean' takes the mean of two accuracies, and the target's validation images have "
            "no labels, so that its score has another unit: use rule='budget'"
        )
    best_on_target = f'best target validation {"accuracy" if labelled else "score (label-free)"}'
    if rule == 'mean':
        best = max(points, key=lambda point: (point.source + point.target, -point.alpha))
        return Choice(best, 'best mean of source and target validation accuracy')
    before = next(point for point in points if not point.alpha and point.statistics == 'own')
    floor = before.source - budget
    # A tolerance for the rounding of metrics.
    allowed = [point for point in points if point.source >= floor - 1e-6]
    best = max(allowed, key=lambda point: (point.target, point.source, -point.alpha))
    return Choice(
        best,
        f'{best_on_target} among those that lose at most '
        f"{budget:g} points of the source model's {before.source:.2f} on the source",
    )


def check_rule(rule: str, budget: float) -> None:
    """Check a rule before anything is measured for it.

    Raises:
        ValueError: If the rule is unknown, or the budget is negative.
    """
    if rule not in RULES:
        raise ValueError(f'rule must be one of {", ".join(RULES)}, got {rule!r}')
    if budget < 0:
        raise ValueError(f'the budget must be at least 0 points, got {budget}')


def write_interpolation(
    folder: Path, points: Sequence[Point], choice: Choice, target_metric: str, **about: Any
) -> None:
    """Write ``interpolation.json`` and ``interpolation.png``, or ``soup.json``, into a folder.

    Args:
        folder: The folder.
        points: The points of the sweep.
        choice: The chosen one.
        target_metric: The metric of the points' ``target``.
        **about: Further entries of the JSON file: checkpoints, rule, images.
    """
    rows, chosen = [point._asdict() for point in points], choice.point._asdict()
    soup = bool(choice.point.models)
    write_json(
        folder / ('soup.json' if soup else 'interpolation.json'),
        {
            **about,
            'target_metric': target_metric,
            'points': rows,
            'chosen': {**chosen, 'why': choice.why},
        },
    )
    if soup:
        return
    labelled = target_metric != LABEL_FREE
    target = f'target validation {"accuracy, %" if labelled else "score, label-free"}'
    write_whole(folder / 'interpolation.png', plot_interpolation(rows, chosen, target))
