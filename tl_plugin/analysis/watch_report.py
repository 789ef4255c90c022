"""What a look at new images found, as one HTML page and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tl_plugin.reporting import plots
from tl_plugin.reporting.page import render_page
from tl_plugin.reporting.tables import make_table

from .findings import printable
from .quality_gap import LABELS
from .watch import Watch

TEMPLATE = Path(__file__).with_name('watch.html.j2')
#: Kind of quantity -> its heading on the page.
PLOTTED = {
    'quality': 'Image quality',
    'features': "The network's features",
    'classes': 'What a classifier of the source sees',
}


def watch_page(found: Watch, findings: str, target: str) -> str:
    """Return the HTML of a look at new images.

    Args:
        found: What it found.
        findings: The diagnosis that it compares with, in words.
        target: The new images, in words.
    """
    values = printable(found.to_json())
    drifts = [{**drift, 'label': label_of(drift)} for drift in values['drifts']]
    drawn, words = {}, {}
    for kind, title in PLOTTED.items():
        own = [drift for drift in drifts if drift['kind'] == kind]
        if own:
            effects = [(d['label'], tuple(d['change'].values()), d['drifted']) for d in own]
            drawn[title] = plots.plot_effects(effects, 'now minus before, in standard deviations')
            changed = [f'{d["label"]} {d["change"]["value"]:+.2f}' for d in own if d['drifted']]
            words[title] = ', '.join(changed) or 'nothing beyond chance'
    shown = {**values, 'drifts': drifts, 'plots': drawn, 'words': words}
    return render_page(TEMPLATE, **shown, findings=findings, target=target)


def label_of(drift: Mapping) -> str:
    """Return the name of a quantity for readers."""
    return LABELS[drift['name']].label if drift['kind'] == 'quality' else drift['name']


def print_watch(found: Watch, rows: int = 12) -> None:
    """Show the verdict and what has changed most."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    values = printable(found.to_json())
    columns = ('quantity', 'before', 'now', 'change', '95% interval', 'p')
    cells = [
        (
            ('* ' if drift['drifted'] else '') + f'{label_of(drift)} ({drift["kind"]})',
            f'{drift["before"]:.3g}',
            f'{drift["now"]:.3g}',
            f'{drift["change"]["value"]:+.2f}',
            f'{drift["change"]["low"]:+.2f} to {drift["change"]["high"]:+.2f}',
            f'{drift["p_value"]:.1g}',
        )
        for drift in values['drifts'][:rows]
    ]
    title = f'{found.images} new images, {found.unreadable} unreadable; * changed beyond chance'
    console.print(make_table(title, columns, cells, text_columns=1))
    for name in ('expected_accuracy_before', 'expected_accuracy'):
        one = getattr(found, name)
        if one is not None:
            text = f'{one.value:.1%} ({one.low:.1%} to {one.high:.1%})'
            console.print(f'{name.replace("_", " ")}: {text}', highlight=False)
    for reason in values['reasons']:
        console.print(reason, highlight=False, soft_wrap=True, markup=False)
    console.print(f'Verdict: {found.verdict}', highlight=False)
