"""A sweep's points as a table, a picture and JSON."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from tl_plugin.engine.tables import make_table

from .interpolation import Choice, Point

_COLOUR = '#1f6f8b'
_CHOSEN = '#c4502a'


def interpolation_table(points: Sequence[Point], choice: Choice) -> Any:
    """Makes a rich table, the chosen point marked."""
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
    columns = ('alpha', 'batch statistics', 'source %', 'change', 'target %', 'change ', '')
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


def interpolation_picture(points: Sequence[Point], choice: Choice) -> bytes:
    """Draws source accuracy against target accuracy; returns a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    estimated = [point for point in points if point.statistics == 'estimated']
    curve = estimated or sorted(points, key=lambda point: point.alpha)
    axes.plot(
        [p.source for p in curve], [p.target for p in curve], color=_COLOUR, marker='o', ms=4, lw=1
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
    axes.set_ylabel('target validation accuracy, %')
    axes.set_title('Weights between the source model and the adapted one')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120)
    return buffer.getvalue()
