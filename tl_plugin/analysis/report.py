"""A diagnosis as JSON, as one HTML page that needs nothing else, and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tl_plugin.intake.images import DomainImages
from tl_plugin.reliability.files import write_json, write_text
from tl_plugin.reporting import plots
from tl_plugin.reporting.page import number_text, render_page, thumbnail
from tl_plugin.reporting.tables import make_table

from .findings import Findings, printable
from .label_records import KINDS
from .quality_gap import LABELS
from .scan import read_item

JSON_NAME, HTML_NAME = 'findings.json', 'report.html'
#: Names that the page shows of each kind of file, and the terminal; the JSON has all.
ON_PAGE, ON_TERMINAL, FEW_ON_TERMINAL = 200, 20, 3
#: Images of each domain whose label looks wrong that the page shows.
DOUBTED = 18
TEMPLATE = Path(__file__).with_name('report.html.j2')


def write_diagnosis(
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
    values = found.to_json()
    write_json(folder / JSON_NAME, values)
    write_text(folder / HTML_NAME, diagnosis_page(values, _thumbnails(values, domains)))
    return folder / JSON_NAME, folder / HTML_NAME


def diagnosis_page(values: dict, thumbnails: Mapping[tuple[str, str], bytes]) -> str:
    """Return the HTML of a diagnosis.

    Args:
        values: The content of ``findings.json``.
        thumbnails: Domain and name of an image -> its thumbnail.
    """
    worst: dict = {}
    for row in values['worst']:
        image = thumbnails.get((row['domain'], row['name']))
        if image is not None:
            rows = worst.setdefault(row['statistic'], {}).setdefault(row['domain'], [])
            rows.append({**printable(row), 'image': image})
    doubted = {
        domain: [
            {**printable(one), 'image': thumbnails.get((domain, one['file']))}
            for one in _doubted(values, domain)
        ]
        for domain in ('source', 'target')
    }
    values = printable(values)
    quality, embedding = values['quality'], values['embedding']
    counts = {name: values[name]['classes'] for name in ('source', 'target')}
    names = sorted(set().union(*counts.values()), key=lambda n: -counts['source'].get(n, 0))[:30]
    bars = {name: [found.get(n, 0) for n in names] for name, found in counts.items()}
    images = dict(classes=plots.plot_bars(bars, names, 'readable images', plots.COLOURS))
    if quality:
        images['effects'] = plots.plot_effects(
            [
                (LABELS[row['name']].label, tuple(row['effect'].values()), row['worse'])
                for row in quality['statistics']
            ]
        )
    if embedding:
        points, domains = list(zip(embedding['x'], embedding['y'])), embedding['domain']
        images['by_domain'] = plots.plot_embedding(points, domains, domains)
        images['by_class'] = plots.plot_embedding(points, embedding['label'], domains)
    return render_page(
        TEMPLATE,
        **values,
        statistics=LABELS,
        worst_by_statistic=worst,
        doubted=doubted,
        plots=images,
        on_page=ON_PAGE,
    )


def print_findings(found: Findings) -> None:
    """Show the most important findings on the terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel

    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    values = printable(found.to_json())
    console.print(make_table('Images', ('', 'source', 'target'), _rows(values), text_columns=1))
    for line in _file_lines(values):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if values['quality']:
        columns = ('statistic', 'source', 'target', 'difference in standard deviations')
        rows = [
            (
                LABELS[row['name']].label,
                *(number_text(row[key]) for key in ('source', 'target', 'effect')),
            )
            for row in values['quality']['statistics'][:6]
        ]
        console.print(make_table('Image quality: what differs most', columns, rows, text_columns=1))
    advice = values['advice']
    lines = [f'[bold]{escape(advice["headline"])}[/bold]', *map(escape, advice['reasons'])]
    before = [*advice['repairs'], *values['notes']]
    lines += [f'[yellow]Before:[/yellow] {escape(text)}' for text in before]
    console.print(Panel('\n'.join(lines), title='Advice'))
    for command in [*advice['label_commands'], *advice['commands']]:
        console.print(f'  {command}', highlight=False, soft_wrap=True, markup=False)


def _doubted(values: dict, domain: str) -> list[dict]:
    """Return the findings on a domain's labels that the page shows, wrong ones first."""
    report = (values['labels'] or {}).get(domain) or {'findings': ()}
    order = list(KINDS)
    return sorted(report['findings'], key=lambda one: order.index(one['kind']))[:DOUBTED]


def _file_lines(values: dict) -> list[str]:
    """Name the files that can't be read or are odd, by kind."""
    lines = []
    for domain in (values['source'], values['target']):
        named: dict[str, list[str]] = {}
        for file in domain['unreadable']:
            named.setdefault(file['fault'], []).append(file['name'])
        for kind, names in {**named, **domain['odd']}.items():
            # A kind that most images are of needs few examples.
            shown = ON_TERMINAL if 2 * len(names) <= domain['images'] else FEW_ON_TERMINAL
            lines.append(f'{kind.replace("_", " ")}: {domain["meanings"][kind]}')
            lines += [f'    {name}' for name in names[:shown]]
            if len(names) > shown:
                lines.append(f'    and {len(names) - shown} more, all in {JSON_NAME}')
    return lines


def _rows(values: dict) -> list[tuple[str, ...]]:
    sides = values['source'], values['target']
    rows = [
        ('images', *(str(side['images']) for side in sides)),
        ('unreadable', *(str(len(side['unreadable'])) for side in sides)),
    ]
    for kind in dict.fromkeys(kind for side in sides for kind in side['faults']):
        counts = (str(side['faults'].get(kind, 0)) for side in sides)
        rows.append((f'  {kind.replace("_", " ")}', *counts))
    copies, gap = values['copies'], values['gap']
    rows.append(('classes', *(str(len(side['classes'])) for side in sides)))
    rows.append(('copies: exact, near', f'{copies["exact"]}, {copies["near"]}', ''))
    shares = [_wrong_labels((values['labels'] or {}).get(name)) for name in ('source', 'target')]
    if any(shares):
        rows.append(('labels that look wrong', *shares))
    for name in ('proxy_a_distance', 'mmd', 'frechet') if gap else ():
        floor = f'{number_text(gap["floor"][name])} (halves)'
        rows.append((name.replace('_', ' '), floor, number_text(gap[name])))
    return rows


def _wrong_labels(report: dict | None) -> str:
    if report is None:
        return ''
    if report['rate'] is None or not report['trusted']:
        return f'{report["counts"]["wrong"]} of {report["images"]}'
    return '{value:.1%} ({low:.1%} to {high:.1%})'.format(**report['rate'])


def _thumbnails(values: dict, domains: Mapping[str, DomainImages]) -> dict[tuple[str, str], bytes]:
    items = {(name, item.name): item for name, images in domains.items() for item in images.items}
    wanted = {(row['domain'], row['name']) for row in values['worst']}
    for domain in ('source', 'target'):
        wanted |= {(domain, one['file']) for one in _doubted(values, domain)}
    images = {key: read_item(items[key]).image for key in wanted if key in items}
    # A file may be gone since.
    return {key: thumbnail(image) for key, image in images.items() if image is not None}
