"""A sweep's points as a table, a picture and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_plugin.reliability.files import write_whole
from tl_plugin.reporting.plots import plot_interpolation
from tl_plugin.reporting.tables import make_table

from .interpolation import LABEL_FREE, Choice, Point


def interpolation_table(
    points: Sequence[Point], choice: Choice, target_metric: str = 'accuracy/top1'
) -> Any:
    """Make a rich table, the chosen point marked."""
    target = 'target score' if target_metric == LABEL_FREE else 'target %'
    before = points[0]  # the source model as it is
    rows = [
        (
            f'{point.alpha:.2f}',
            point.statistics,
            f'{point.source:.2f}',
            f'{point.source - before.source:+.2f}',
            f'{point.target:.2f}',
            f'{point.target - before.target:+.2f}',
            'chosen' if point == choice.point else '',
        )
        for point in sorted(points, key=lambda point: point.alpha)
    ]
    columns = ('alpha', 'batch statistics', 'source %', 'change', target, 'change ', '')
    return make_table('Between the source model (0) and the adapted one (1)', columns, rows)


def interpolation_json(points: Sequence[Point], choice: Choice, **about: Any) -> dict:
    """Everything that the table shows, ready for JSON.

    Args:
        points: Of the sweep.
        choice: Of it.
        **about: Further entries of the file: checkpoints, rule, images.
    """
    return {
        **about,
        'points': [point._asdict() for point in points],
        'chosen': {**choice.point._asdict(), 'why': choice.why},
    }


def write_interpolation(
    folder: Path, points: Sequence[Point], choice: Choice, **about: Any
) -> None:
    """Write ``interpolation.json`` and ``interpolation.png`` into a folder.

    Args:
        folder: Where to.
        points: Of the sweep.
        choice: Of it.
        **about: As for :func:`interpolation_json`, ``target_metric`` among it.
    """
    content = json.dumps(interpolation_json(points, choice, **about), indent=2) + '\n'
    write_whole(folder / 'interpolation.json', content.encode())
    accuracy = about['target_metric'] != LABEL_FREE
    target = f'target validation {"accuracy, %" if accuracy else "score, label-free"}'
    plain = [point._asdict() for point in points]
    picture = plot_interpolation(plain, choice.point._asdict(), target)
    write_whole(folder / 'interpolation.png', picture)
