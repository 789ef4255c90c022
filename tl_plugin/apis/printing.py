"""A summary of predictions on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tl_plugin.evaluation.intervals import Estimate
from tl_plugin.reporting.tables import make_table

from .summary import Summary

_CLASSES, _FAULTS = 20, 5


def print_summary(summary: Summary) -> None:
    """Show counts of classes, what is known of the accuracy, and where the files are."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    rows = [
        (one.name, one.predicted, *map(_percent, (one.share, one.estimated, one.source)))
        for one in summary.classes[:_CLASSES]
    ]
    columns = ('class', 'predicted', 'share', 'corrected', 'source')
    title = f'{summary.images} images, {summary.unreadable} unreadable'
    console.print(make_table(title, columns, rows, text_columns=1))
    if len(summary.classes) > _CLASSES:
        _say(console, f'and {len(summary.classes) - _CLASSES} rarer classes')
    for name, fault in list(summary.faults.items())[:_FAULTS]:
        _say(console, f'unreadable: {name}: {fault}')
    if summary.accuracy is not None:
        _say(console, f'Accuracy on the labelled images: {_estimate(summary.accuracy)}')
    _say(console, f'Expected accuracy: {_estimate(summary.expected_accuracy)}')
    if summary.calibrated:
        _say(
            console,
            f'Sure at a precision of {summary.precision:.0%}: {summary.sure}; unlike the source: '
            f'{summary.unlike_source}; classes in a set: {summary.set_size or 0:.2f}',
        )
    for note in summary.notes:
        _say(console, f'Note: {note}')
    out = Path(summary.out)
    written = [out, out.with_suffix('.summary.json'), out.with_suffix('.html')]
    if summary.to_label:
        written.append(out.with_suffix('.to_label.csv'))
    _say(console, f'Written: {", ".join(map(str, written))}')


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _percent(share: float | None) -> str:
    return '' if share is None else f'{share:.1%}'


def _estimate(found: Estimate | None) -> str:
    return 'unknown' if found is None else f'{found[0]:.1%} ({found[1]:.1%} to {found[2]:.1%})'
