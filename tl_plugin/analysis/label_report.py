"""A check of labels as a table to correct, as JSON, and as a page of thumbnails."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from tl_plugin.intake.images import DomainImages
from tl_plugin.reliability.files import write_json, write_whole
from tl_plugin.reporting.page import render_page, thumbnail
from tl_plugin.reporting.tables import make_table

from .findings import printable
from .label_records import KINDS, LabelFinding, LabelReport
from .scan import read_item

TABLE_NAME, JSON_NAME, PAGE_NAME = 'labels.csv', 'labels.json', 'labels.html'
COLUMNS = ('file', 'given', 'likely', 'score', 'kind', 'reason', 'right', 'label')
TEMPLATE = Path(__file__).with_name('labels.html.j2')
#: Thumbnails of a class pair, and of the page.
SHOWN_OF_PAIR, SHOWN = 24, 600


def write_label_report(report: LabelReport, domain: DomainImages, folder: Path) -> list[Path]:
    """Write ``labels.csv``, ``labels.json`` and ``labels.html``.

    Args:
        report: What the check found.
        domain: The images, for the thumbnails.
        folder: Where to write.

    Returns:
        Their paths.
    """
    paths = [folder / name for name in (TABLE_NAME, JSON_NAME, PAGE_NAME)]
    items = {item.name: item for item in domain.items}
    absolute = {
        one.file: one.file if items[one.file].pixels is not None else str(Path(one.file).absolute())
        for one in report.findings
    }
    # With a byte order mark, which Excel needs to read UTF-8.
    write_whole(paths[0], _table(report, absolute).encode('utf-8-sig', 'surrogateescape'))
    write_json(paths[1], report.to_json())
    page = render_page(TEMPLATE, shown=_shown(report, items), table=TABLE_NAME, **_plain(report))
    write_whole(paths[2], page.encode('utf-8', 'replace'))
    return paths


def _plain(report: LabelReport) -> dict:
    values = printable(report.to_json())
    return {key: value for key, value in values.items() if key != 'findings'}


def _table(report: LabelReport, absolute: Mapping[str, str]) -> str:
    text = io.StringIO(newline='')
    table = csv.writer(text, lineterminator='\n')
    table.writerow(COLUMNS)
    for one in report.findings:
        thought = one.likely, one.score, one.kind, one.reason, one.right
        table.writerow([absolute[one.file], one.given, *thought, one.given])
    return text.getvalue()


def _shown(report: LabelReport, items: Mapping) -> dict[str, list[dict]]:
    shown, left = {}, SHOWN
    for kind in KINDS:
        groups: dict[tuple[str, str], list[LabelFinding]] = {}
        for one in report.flagged(kind):
            groups.setdefault((one.given, one.likely), []).append(one)
        rows = []
        for (given, likely), found in sorted(groups.items(), key=lambda pair: -len(pair[1])):
            chosen = found[: min(SHOWN_OF_PAIR, left)]
            left -= len(chosen)
            title = f'given {given}, likely {likely}' if given != likely else f'given {given}'
            pictures = [_picture(one, items) for one in chosen]
            rows.append(dict(title=printable(title), count=len(found), rows=pictures))
        if rows:
            shown[kind] = rows
    return shown


def _picture(one: LabelFinding, items: Mapping) -> dict:
    image = read_item(items[one.file]).image  # None where the file is gone since
    values = {**printable(dict(vars(one))), 'short': printable(Path(one.file).name)}
    return {**values, 'image': None if image is None else thumbnail(image)}


def print_label_report(report: LabelReport, worst: int = 10) -> None:
    """Show the estimate and the worst images on the terminal.

    Args:
        report: What the check found.
        worst: Number of images named. Defaults to 10.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    if report.rate is not None:
        value, low, high = (100 * end for end in report.rate)
        print(f'Wrong labels: about {value:.1f}% ({low:.1f} to {high:.1f}%) of {report.images}')
    counts = ', '.join(f'{count} {kind}' for kind, count in report.counts().items())
    print(f'Listed:       {counts}; judged by {printable(report.judge)}')
    rows = [
        (f'{one.score:.2f}', one.kind, *printable([one.given, one.likely, one.file]))
        for one in report.flagged()[:worst]
    ]
    if rows:
        columns = ('score', 'kind', 'given', 'likely', 'file')
        console.print(make_table('The most suspicious', columns, rows, text_columns=len(columns)))
    for note in report.notes:
        print(f'Note:         {printable(note)}')
