"""The results as a table, on the terminal and in a README."""

from __future__ import annotations

from tl_plugin.ladder.intervals import METHODS, as_text
from tl_plugin.ladder.recommend import BASELINE
from tl_plugin.ladder.results import recommended_rung


def rows(results: dict) -> tuple[list[str], list[list[str]]]:
    """The table of all outputs: header and cells, as text."""
    header = ['rung', 'learns from']
    for domain in ('target', 'source'):
        header += [f'{domain} %', '95% interval', 'change']
    cells = [
        [
            rung['name'],
            rung['data'].replace('_', ' '),
            *_measured(rung, 'target'),
            *_measured(rung, 'source'),
            f'{rung["seconds"]:.0f} s',
            f'{rung["trainable_parameters"]:,}',
        ]
        for rung in results['rungs']
    ]
    return [*header, 'time', 'trainable'], cells


def _measured(rung: dict, domain: str) -> tuple[str, str, str]:
    interval = as_text(rung.get(f'{domain}_accuracy_interval'))
    return _with_spread(rung, domain), interval, _signed(rung[f'{domain}_change'])


def interval_note(results: dict) -> str:
    """How the table's intervals were made, in a sentence's part."""
    methods = {rung['interval_method'] for rung in results['rungs'] if 'interval_method' in rung}
    return '; for one seed, '.join(METHODS[name] for name in sorted(methods, reverse=True))


def print_table(results: dict) -> None:
    """Print the table on the terminal, the recommended rung in bold."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    header, cells = rows(results)
    table = Table(title='Accuracy on test images', box=box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify='left' if column < 2 else 'right')
    recommended = recommended_rung(results)
    for rung, row in zip(results['rungs'], cells):
        table.add_row(*row, style='bold' if rung is recommended else None)
    console = Console()
    # A pipe has no width, and a folded table is hard to read.
    Console(width=None if console.is_terminal else 200).print(table)


def markdown_table(results: dict) -> str:
    """Return the table for a README, with a line on where it comes from.

    Args:
        results: Content of results.json.
    """
    header, cells = rows(results)
    lines = ['| ' + ' | '.join(row) + ' |' for row in [header, *cells]]
    lines.insert(1, '| --- | --- |' + ' ---: |' * (len(header) - 2))
    seeds = max((len(rung['seeds']) for rung in results['rungs']), default=0)
    what = 'mean ± standard deviation' if seeds > 1 else 'one run'
    made_with = ', '.join(
        f'{name} {results["versions"][name]}' for name in ('mmpretrain', 'mmengine', 'torch')
    )
    lines += [
        '',
        f'`{results["config"]}`, percent of test images that are right at the last epoch, {what}'
        f'{f" over {seeds} seeds" if seeds > 1 else ""}; 95% confidence interval: '
        f'{interval_note(results)}; change against {BASELINE}, in points; '
        f'trainable parameters. {results["machine"]}, {made_with}, '
        f'commit {results["commit"] or "unknown"}.',
    ]
    return '\n'.join(lines)


def _with_spread(rung: dict, domain: str) -> str:
    spread = rung[f'{domain}_accuracy_spread']
    return f'{rung[f"{domain}_accuracy"]:.1f}' + (f' ± {spread:.1f}' if spread is not None else '')


def _signed(points: float | None) -> str:
    return '' if points is None else f'{points:+.1f}'
