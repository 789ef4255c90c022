"""Tables for logs and terminals."""

from __future__ import annotations

import io
from typing import Iterable, Sequence

#: Wide enough for every table of ours; narrower ones take only what they need.
LOG_WIDTH = 160


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence], footer: Sequence = ()):
    """Make a rich table. Columns that hold only numbers are aligned to the right.

    Args:
        title: What the table shows.
        columns: The heads.
        rows: The cells, which are turned into text.
        footer: One more row for totals, set apart.

    Returns:
        A ``rich.table.Table``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [[str(cell) for cell in row] for row in rows]
    table = Table(
        title=Text(title), title_justify='left', box=box.MARKDOWN, show_footer=bool(footer)
    )
    for index, column in enumerate(columns):
        numbers = all(_is_number(row[index]) for row in rows)
        table.add_column(
            column, str(footer[index]) if footer else '', justify='right' if numbers else 'left'
        )
    for row in rows:
        table.add_row(*map(Text, row))  # a name may hold brackets, which are markup in a string
    return table


def as_text(table, width: int = LOG_WIDTH) -> str:
    """Write a table as plain text, for a log.

    Args:
        table: What :func:`make_table` returned.
        width: Characters in a line at most. Defaults to 160.

    Example:
        >>> print(as_text(make_table('Layers', ['depth', 'name'], [(0, 'stem'), (1, 'head')])))
        Layers
        <BLANKLINE>
        | depth | name |
        |-------|------|
        |     0 | stem |
        |     1 | head |
    """
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, no_color=True).print(table)
    lines = [line.rstrip() for line in buffer.getvalue().split('\n')]
    return '\n'.join(lines).strip('\n')


def _is_number(cell: str) -> bool:
    return cell == '' or cell.replace(',', '').replace('.', '').replace('e-', '').isdigit()
