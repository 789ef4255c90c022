"""Tables for logs and terminals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

#: Wide enough for every table of the package; narrower ones take only what they need.
LOG_WIDTH = 160


def make_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence], footer: Sequence = ()
) -> Any:
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


def terminal_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    text_columns: int = 1,
    bold: Sequence[int] = (),
) -> Any:
    """Make a rich table for reading on a terminal.

    Args:
        title: What the table shows.
        columns: The heads.
        rows: The cells.
        text_columns: How many columns are aligned to the left, before those of figures.
        bold: Indices of rows that stand out.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify='left' if index < text_columns else 'right')
    for index, row in enumerate(rows):
        table.add_row(*map(Text, row), style='bold' if index in bold else None)
    return table


def _is_number(cell: str) -> bool:
    return cell == '' or cell.replace(',', '').replace('.', '').replace('e-', '').isdigit()
