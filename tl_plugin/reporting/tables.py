"""Tables for logs and terminals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

#: Wide enough for every table of the package; narrower ones take only what they need.
LOG_WIDTH = 160


def make_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence],
    footer: Sequence = (),
    text_columns: int | None = None,
    bold: int | None = None,
) -> Any:
    """Make a rich table.

    Args:
        title: What the table shows.
        columns: The heads.
        rows: The cells, which are turned into text.
        footer: One more row for totals, set apart.
        text_columns: How many columns are aligned to the left, before those of figures; the lines
            are those of a terminal then, not of Markdown. None aligns columns that hold only
            numbers to the right. Defaults to None.
        bold: Index of a row that stands out.

    Returns:
        A ``rich.table.Table``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [[str(cell) for cell in row] for row in rows]
    lines = box.MARKDOWN if text_columns is None else box.SIMPLE_HEAD
    table = Table(title=Text(title), title_justify='left', box=lines, show_footer=bool(footer))
    for index, column in enumerate(columns):
        numbers = all(_is_number(row[index]) for row in rows)
        if text_columns is not None:
            numbers = index >= text_columns
        total = str(footer[index]) if footer else ''
        table.add_column(column, total, justify='right' if numbers else 'left')
    for index, row in enumerate(rows):
        # A name may hold brackets, which are markup in a string.
        table.add_row(*map(Text, row), style='bold' if index == bold else None)
    return table


def table_text(table: Any, width: int = LOG_WIDTH) -> str:
    """Return a table as plain text, for a log.

    Args:
        table: What :func:`make_table` returned.
        width: Characters in a line at most. Defaults to 160.

    Example:
        >>> print(table_text(make_table('Layers', ['depth', 'name'], [(0, 'stem'), (1, 'head')])))
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
