"""The results as a table, on the terminal and in a README."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tl_plugin.evaluation.intervals import METHODS, interval_text
from tl_plugin.evaluation.shared_accuracy import LEAST_MODELS
from tl_plugin.reporting.tables import make_table
from tl_plugin.stack.protocol import TARGET

from .recommend import BASELINE, TARGET_ACCURACY
from .records import DomainResult, LadderResults, RungResult
from .run_records import CONFIDENT, NOT_ESTIMATED

#: Stands for an unknown figure.
UNKNOWN = 'not known'
#: The label-free score that is shown, of those that there are.
SHOWN_SCORE = 'information_maximization'


class Column(NamedTuple):
    """One column.

    Args:
        name: Of the header.
        cell: Rung -> text.
        below: Rung -> what the report puts in small letters below it; None: nothing.
        note: What the column says, for a column that not every reader knows.
        below_name: What that is, for a header. Defaults to '95% interval'.
    """

    name: str
    cell: Callable[[RungResult], str]
    below: Callable[[RungResult], str] | None = None
    note: str = ''
    below_name: str = '95% interval'


_NO_SOURCE = Column('source %', lambda r: 'not measured')


def has_accuracy(results: LadderResults, domain: str) -> bool:
    """Return whether the test accuracy of a domain is known of any rung."""
    return any(rung.on(domain).accuracy is not None for rung in results.rungs)


def columns(results: LadderResults) -> list[Column]:
    """Return the columns that the results have figures for."""
    target = _accuracy(TARGET) if has_accuracy(results, TARGET) else _without_labels(results)
    return [
        Column(
            'rung',
            lambda r: r.name,
            below=lambda r: r.data.replace('_', ' '),
            below_name='learns from',
        ),
        *target,
        *_expected(results),
        *(_accuracy('source') if has_accuracy(results, 'source') else [_NO_SOURCE]),
        Column('time', lambda r: f'{r.seconds:.0f} s'),
        Column('trainable', lambda r: f'{r.trainable_parameters:,}'),
    ]


def _accuracy(domain: str) -> list[Column]:
    return [
        Column(
            f'{domain} %',
            lambda r: _with_spread(r.on(domain)),
            below=lambda r: interval_text(r.on(domain).accuracy_interval),
        ),
        Column('change', lambda r: _signed(r.on(domain).change)),
    ]


def _expected(results: LadderResults) -> list[Column]:
    """Return what is expected of the target's accuracy, where that was estimated at all."""
    on = [rung.on(TARGET) for rung in results.rungs]
    if all(one.expected_accuracy is None for one in on):
        return []
    return [
        Column(
            'expected %',
            lambda r: _number(r.on(TARGET).expected_accuracy, 1),
            below=lambda r: interval_text(r.on(TARGET).expected_interval),
            below_name='90% interval',
        )
    ]


def _why_not_expected(results: LadderResults) -> list[str]:
    """Return for each reason which rungs' accuracy can't be expected by it, in sentences."""
    by_reason: dict[str, list[str]] = {}
    for rung in results.rungs:
        if rung.on(TARGET).no_expected_accuracy:
            by_reason.setdefault(rung.on(TARGET).no_expected_accuracy, []).append(rung.name)
    if not any(rung.on(TARGET).expected_accuracy is not None for rung in results.rungs):
        by_reason.pop(NOT_ESTIMATED, None)
    return [
        f'The accuracy of {", ".join(names)} on the target is not estimated: {reason}.'
        for reason, names in by_reason.items()
    ]


def _without_labels(results: LadderResults) -> list[Column]:
    """Return columns of what is known of a target whose test images have no labels."""
    found = []
    if any(rung.validated(TARGET_ACCURACY) is not None for rung in results.rungs):
        found.append(
            Column(
                'target validation %',
                lambda r: _number(r.validated(TARGET_ACCURACY), 1),
                note="accuracy on the target's validation images",
            )
        )
    found += [
        Column(
            'target score',
            lambda r: _number(r.on(TARGET).label_free.get(SHOWN_SCORE), 3),
            note="information maximization of the predictions on the target's test images, in "
            'nats: high where they are confident and spread over the classes',
        ),
        Column(
            'confident %',
            lambda r: _number(r.on(TARGET).confident, 1),
            note='share of these images whose predicted class has a probability of at least '
            f'{CONFIDENT:g}',
        ),
        Column(
            f'as {BASELINE} %',
            lambda r: _number(r.on(TARGET).agreement, 1),
            note=f'share of these images that get the class that {BASELINE} predicts',
        ),
    ]
    return found


def notes(results: LadderResults) -> list[str]:
    """Return what a reader of the table has to know, in sentences."""
    found = []
    if has_accuracy(results, TARGET):
        partly = next((r.on(TARGET) for r in results.rungs if r.on(TARGET).partly_labelled), None)
        if partly is not None:
            found.append(
                f'Target accuracy is over the {partly.images} of {partly.test_images} test images '
                'that have a label.'
            )
    elif results.rungs:
        found += [
            "The target's test images have no labels, so no rung's accuracy on them is known. What "
            'is known instead says nothing of how many predictions are right:',
            *(f'{column.name}: {column.note}.' for column in columns(results) if column.note),
        ]
    if _expected(results):
        found.append(
            'expected %: target accuracy as it is estimated without any label, with a 90% '
            f'interval: from how far {LEAST_MODELS} rungs or more agree, from degraded source '
            'images where they are fewer. It is an estimate: mistakes that rungs share, and shifts '
            'unlike any degradation, put it far off.'
        )
    return found + _why_not_expected(results)


def rows(results: LadderResults) -> tuple[list[str], list[list[str]]]:
    """Return the table of all text outputs: header and cells."""
    header, cells = [], []
    for column in columns(results):
        header.append(column.name)
        cells.append(column.cell)
        if column.below:
            header.append(column.below_name)
            cells.append(column.below)
    return header, [[cell(rung) for cell in cells] for rung in results.rungs]


def interval_note(results: LadderResults) -> str:
    """Describe how the table's intervals were made, as part of a sentence."""
    methods = {rung.interval_method for rung in results.rungs}
    return '; for one seed, '.join(METHODS[name] for name in sorted(methods, reverse=True))


def print_table(results: LadderResults) -> None:
    """Print the table on the terminal, the recommended rung in bold."""
    from rich.console import Console

    header, cells = rows(results)
    chosen = results.recommended
    bold = results.rungs.index(chosen) if chosen else None
    table = make_table('On test images', header, cells, text_columns=2, bold=bold)
    console = Console()
    # A pipe has no width, and a folded table is hard to read.
    Console(width=None if console.is_terminal else 200).print(table)
    for note in notes(results):
        print(note)


def markdown_table(results: LadderResults) -> str:
    """Return the table for a README, with a line on where it comes from.

    Args:
        results: Of a climb.
    """
    header, cells = rows(results)
    lines = ['| ' + ' | '.join(row) + ' |' for row in [header, *cells]]
    lines.insert(1, '| --- | --- |' + ' ---: |' * (len(header) - 2))
    seeds = max((len(rung.seeds) for rung in results.rungs), default=0)
    what = 'mean ± standard deviation' if seeds > 1 else 'one run'
    made_with = ', '.join(
        f'{name} {results.versions.get(name)}' for name in ('mmpretrain', 'mmengine', 'torch')
    )
    lines += [
        '',
        f'`{results.config}`, percent of test images that are right at the last epoch, {what}'
        f'{f" over {seeds} seeds" if seeds > 1 else ""}; 95% confidence interval: '
        f'{interval_note(results)}; change against {BASELINE}, in points; '
        f'trainable parameters. {results.machine}, {made_with}, '
        f'commit {results.commit or "unknown"}.',
    ]
    lines += [line for note in (*notes(results), *results.notes) for line in ('', note)]
    return '\n'.join(lines)


def _with_spread(found: DomainResult) -> str:
    if found.accuracy is None:
        return UNKNOWN
    spread = found.accuracy_spread
    return f'{found.accuracy:.1f}' + (f' ± {spread:.1f}' if spread is not None else '')


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f'{value:.{digits}f}'


def _signed(points: float | None) -> str:
    return UNKNOWN if points is None else f'{points:+.1f}'
