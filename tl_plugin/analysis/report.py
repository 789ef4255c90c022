"""A diagnosis as JSON, as one HTML page that needs nothing else, and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tl_plugin.intake.images import DomainImages
from tl_plugin.reliability.files import write_json, write_text
from tl_plugin.reporting import diagnosis_plots as plots

from .findings import Findings, plain, printable
from .quality_gap import LABELS
from .scan import read_item

JSON_NAME, HTML_NAME = 'findings.json', 'report.html'
#: Names that the page shows of each kind of file, and the terminal; the JSON has all.
ON_PAGE, ON_TERMINAL, FEW_ON_TERMINAL = 200, 20, 3
TEMPLATE = Path(__file__).with_name('report.html.j2')


def write_report(
    found: Findings, domains: Mapping[str, DomainImages], folder: Path
) -> tuple[Path, Path]:
    """Write ``findings.json`` and ``report.html``, which shows its figures.

    Args:
        found: What the diagnosis found.
        domains: Source and target, for the pictures of the worst images.
        folder: Where to write.

    Returns:
        Both paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = plain(found)
    write_json(folder / JSON_NAME, values)
    write_text(folder / HTML_NAME, make_page(values, _pictures(values, domains)))
    return folder / JSON_NAME, folder / HTML_NAME


def make_page(values: dict, pictures: Mapping[tuple[str, str], str]) -> str:
    """Make the page.

    Args:
        values: The content of ``findings.json``.
        pictures: Domain and name of an image -> data URI of its thumbnail.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters['figure'] = figure
    environment.filters['limited'] = lambda rows: rows[:ON_PAGE]
    environment.filters['rest'] = lambda rows: max(len(rows) - ON_PAGE, 0)
    environment.filters['percent'] = lambda share: f'{100 * share:.0f}%'
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    worst: dict = {}
    for row in values['worst']:
        if (row['domain'], row['name']) in pictures:
            part = worst.setdefault(row['statistic'], {}).setdefault(row['domain'], [])
            part.append({**row, 'picture': pictures[row['domain'], row['name']]})
    values = printable(values)
    quality, embedding = values['quality'], values['embedding']
    names = {name: statistic.label for name, statistic in LABELS.items()}
    return template.render(
        **values,
        labels=LABELS,
        worst_by_statistic=printable(worst),
        plot_classes=plots.plot_classes(*(values[d]['classes'] for d in ('source', 'target'))),
        plot_effects=plots.plot_effects(quality['statistics'], names) if quality else None,
        plot_domains=plots.plot_embedding(embedding, 'domain') if embedding else None,
        plot_labels=plots.plot_embedding(embedding, 'label') if embedding else None,
    )


def figure(value: float | Mapping | None) -> str:
    """Write a number, or one with its interval.

    >>> figure({'value': 1.2345, 'low': 1.0, 'high': 1.5}), figure(12345.6), figure(None)
    ('1.23 (1 to 1.5)', '12346', 'unknown')
    """
    if value is None:
        return 'unknown'
    if isinstance(value, Mapping):
        return f'{figure(value["value"])} ({figure(value["low"])} to {figure(value["high"])})'
    if abs(value) >= 1000:
        return f'{value:.0f}'
    return f'{value:.3g}'


def print_findings(found: Findings) -> None:
    """Show the most important findings on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    values = printable(plain(found))
    table = Table(title='Images', box=box.SIMPLE_HEAD)
    for column in ('', 'source', 'target'):
        table.add_column(column, justify='left' if not column else 'right')
    for row in _rows(values):
        table.add_row(*row)
    console.print(table)
    for line in _file_lines(values):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if values['quality']:
        table = Table(title='Image quality: what differs most', box=box.SIMPLE_HEAD)
        for column in ('statistic', 'source', 'target', 'difference in standard deviations'):
            table.add_column(column, justify='left' if column == 'statistic' else 'right')
        for row in values['quality']['statistics'][:6]:
            table.add_row(
                LABELS[row['name']].label,
                figure(row['source']),
                figure(row['target']),
                figure(row['effect']),
            )
        console.print(table)
    advice = values['recommendation']
    lines = [f'[bold]{escape(advice["headline"])}[/bold]', *map(escape, advice['reasons'])]
    before = [*advice['repairs'], *values['notes']]
    lines += [f'[yellow]Before:[/yellow] {escape(text)}' for text in before]
    console.print(Panel('\n'.join(lines), title='Recommendation'))
    for command in advice['commands']:
        console.print(f'  {command}', highlight=False, soft_wrap=True, markup=False)


def _file_lines(values: dict) -> list[str]:
    """Name the files that can't be read or are odd, by kind."""
    lines = []
    for domain in (values['source'], values['target']):
        named: dict[str, list[str]] = {}
        for file in domain['unreadable']:
            named.setdefault(file['fault'], []).append(file['name'])
        for kind, names in {**named, **domain['odd']}.items():
            # What most images are is no oddity of single ones.
            shown = ON_TERMINAL if 2 * len(names) <= domain['images'] else FEW_ON_TERMINAL
            lines.append(f'{kind.replace("_", " ")}: {domain["meanings"][kind]}')
            lines += [f'    {name}' for name in names[:shown]]
            if len(names) > shown:
                lines.append(f'    and {len(names) - shown} more, all in {JSON_NAME}')
    return lines


def _rows(values: dict) -> list[tuple[str, ...]]:
    sides = [values[name] for name in ('source', 'target')]
    rows = [
        ('images', *(str(side['images']) for side in sides)),
        ('unreadable', *(str(len(side['unreadable'])) for side in sides)),
    ]
    kinds = dict.fromkeys(kind for side in sides for kind in side['faults'])
    rows += [
        (f'  {kind.replace("_", " ")}', *(str(side['faults'].get(kind, 0)) for side in sides))
        for kind in kinds
    ]
    rows.append(('classes', *(str(len(side['classes'])) for side in sides)))
    copies = values['copies']
    rows.append(('copies: exact, near', f'{copies["exact"]}, {copies["near"]}', ''))
    gap = values['gap']
    if gap:
        for name in ('proxy_a_distance', 'mmd', 'frechet'):
            label = name.replace('_', ' ')
            rows.append((label, f'{figure(gap["floor"][name])} (halves)', figure(gap[name])))
    return rows


def _pictures(values: dict, domains: Mapping[str, DomainImages]) -> dict[tuple[str, str], str]:
    items = {(name, item.name): item for name, images in domains.items() for item in images.items}
    pictures = {}
    for row in values['worst']:
        key = row['domain'], row['name']
        if key not in pictures:
            image = read_item(items[key]).image
            if image is not None:  # it may have gone since
                pictures[key] = plots.thumbnail(image)
    return pictures
