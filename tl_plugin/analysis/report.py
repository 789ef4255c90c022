"""A diagnosis as JSON, as one HTML page that needs nothing else, and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tl_plugin.analysis import plots
from tl_plugin.analysis.findings import Findings, plain
from tl_plugin.analysis.quality_gap import LABELS
from tl_plugin.analysis.scan import read_item
from tl_plugin.datasets.images import DomainImages
from tl_plugin.ladder.files import write_json, write_text

JSON_NAME, HTML_NAME = 'findings.json', 'report.html'
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
    environment.filters['percent'] = lambda share: f'{100 * share:.0f}%'
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    quality, embedding = values['quality'], values['embedding']
    worst: dict = {}
    for row in values['worst']:
        if (row['domain'], row['name']) in pictures:
            part = worst.setdefault(row['statistic'], {}).setdefault(row['domain'], [])
            part.append({**row, 'picture': pictures[row['domain'], row['name']]})
    return template.render(
        **values,
        labels=LABELS,
        worst_by_statistic=worst,
        plot_classes=plots.plot_classes(*(values[d]['classes'] for d in ('source', 'target'))),
        plot_effects=plots.plot_effects(quality['statistics']) if quality else None,
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
    values = plain(found)
    table = Table(title='Images', box=box.SIMPLE_HEAD)
    for column in ('', 'source', 'target'):
        table.add_column(column, justify='left' if not column else 'right')
    for row in _rows(values):
        table.add_row(*row)
    console.print(table)
    for name in ('source', 'target'):
        for file in values[name]['unreadable'][:20]:
            console.print(f'[red]{file["fault"]}[/red] {escape(file["name"])}', highlight=False)
        if len(values[name]['unreadable']) > 20:
            console.print(f'and {len(values[name]["unreadable"]) - 20} more in {JSON_NAME}')
    if values['quality']:
        table = Table(title='Image quality: what differs most', box=box.SIMPLE_HEAD)
        for column in ('statistic', 'source', 'target', 'difference in standard deviations'):
            table.add_column(column, justify='left' if column == 'statistic' else 'right')
        for row in values['quality']['statistics'][:6]:
            table.add_row(LABELS[row['name']].label, figure(row['source']),
                          figure(row['target']), figure(row['effect']))  # fmt: skip
        console.print(table)
    advice = values['recommendation']
    lines = [f'[bold]{escape(advice["headline"])}[/bold]', *map(escape, advice['reasons'])]
    lines += [f'[yellow]Before:[/yellow] {escape(text)}' for text in advice['repairs']]
    console.print(Panel('\n'.join(lines), title='Recommendation'))
    for command in advice['commands']:
        console.print(f'  {command}', highlight=False, soft_wrap=True, markup=False)


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


def _pictures(
    values: dict, domains: Mapping[str, DomainImages]
) -> dict[tuple[str, str], str]:
    items = {
        (name, item.name): item for name, images in domains.items() for item in images.items
    }
    pictures = {}
    for row in values['worst']:
        key = row['domain'], row['name']
        if key not in pictures:
            image = read_item(items[key]).image
            if image is not None:  # it may have gone since
                pictures[key] = plots.thumbnail(image)
    return pictures
