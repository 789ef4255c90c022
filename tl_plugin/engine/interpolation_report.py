"""A sweep's points as a table, a picture and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_plugin.reliability.files import write_whole
from tl_plugin.reporting.tables import make_table

from .interpolation import LABEL_FREE, Choice, Point

_COLOUR = '#1f6f8b'
_CHOSEN = '#c4502a'
#: Lines of the picture -> whose points they join.
_CURVES = {'-': ('estimated',), '--': ('interpolated', 'own')}


def interpolation_table(
    points: Sequence[Point], choice: Choice, target_metric: str = 'accuracy/top1'
) -> Any:
    """Makes a rich table, the chosen point marked."""
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
        **about: Whatever else shall be in it: checkpoints, rule, images.
    """
    return {
        **about,
        'points': [point._asdict() for point in points],
        'chosen': {**choice.point._asdict(), 'why': choice.why},
    }


def write_interpolation(
    folder: Path, points: Sequence[Point], choice: Choice, **about: Any
) -> None:
    """Writes ``interpolation.json`` and ``interpolation.png`` into a folder.

    Args:
        folder: Where to.
        points: Of the sweep.
        choice: Of it.
        **about: As for :func:`interpolation_json`, ``target_metric`` among it.
    """
    content = json.dumps(interpolation_json(points, choice, **about), indent=2) + '\n'
    write_whole(folder / 'interpolation.json', content.encode())
    picture = interpolation_picture(points, choice, about['target_metric'])
    write_whole(folder / 'interpolation.png', picture)


def interpolation_picture(
    points: Sequence[Point], choice: Choice, target_metric: str = 'accuracy/top1'
) -> bytes:
    """Draws source accuracy against what counts on the target; returns a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for line, kinds in _CURVES.items():
        curve = sorted((p for p in points if p.statistics in kinds), key=lambda p: p.alpha)
        if {point.statistics for point in curve} <= {'own'}:
            continue
        axes.plot(
            [p.source for p in curve],
            [p.target for p in curve],
            line,
            color=_COLOUR,
            marker='o',
            ms=4,
            lw=1,
            label=f'batch statistics {kinds[0]}',
        )
        for point in curve:
            axes.annotate(
                f'{point.alpha:g}',
                (point.source, point.target),
                textcoords='offset points',
                xytext=(5, 4),
                fontsize=8,
            )
    for point in points:
        if point.statistics == 'own':
            name = 'adapted model as it is' if point.alpha else 'source model as it is'
            marker = '^' if point.alpha else 's'
            axes.plot(point.source, point.target, marker, color='#444444', ms=7, label=name)
    axes.plot(
        choice.point.source,
        choice.point.target,
        'o',
        ms=12,
        mfc='none',
        mec=_CHOSEN,
        mew=2,
        label=f'chosen: alpha {choice.point.alpha:g}',
    )
    axes.set_xlabel('source validation accuracy, %')
    labelled = target_metric != LABEL_FREE
    axes.set_ylabel(f'target validation {"accuracy, %" if labelled else "score, label-free"}')
    axes.set_title('Weights between the source model and the adapted one')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    return buffer.getvalue()
