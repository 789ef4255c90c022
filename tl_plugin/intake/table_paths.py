"""Find the files that a table names, whatever system and folder it was written for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

_ELSEWHERE = re.compile(r'[A-Za-z]:[\\/]|\\\\|[a-z]+://')


def find_files(table: Path, names: Sequence[str]) -> tuple[list[str], list[int], list[str]]:
    r"""Find the file of each row.

    A name is tried as it is written, with ``/`` for ``\``, and with ``%20`` and its like decoded;
    each relative to the table's folder, then to the folder above it, then to the current folder.

    Args:
        table: The table's path.
        names: What its rows say.

    Returns:
        A path for each row; the numbers of the rows, from 0, that have no file; and how the other
        names were interpreted, in words.

    Raises:
        ValueError: If no row has a file; says where they were expected.
    """
    ways = _ways(table)
    found, missing, used = [], [], {}
    for row, name in enumerate(names):
        for way in (*used, *ways):
            words, form, base = way
            path = os.path.join(base, form(name))
            if os.path.isfile(path):
                found.append(str(Path(path)))
                used[way] = words
                break
        else:
            missing.append(row)
            found.append(str(table.parent / name))
    if names and not used:
        raise ValueError(_nowhere(table, names[0], len(names)))
    return found, missing, [words for words in used.values() if words]


def _ways(table: Path) -> list[tuple]:
    forms = (
        ('', str),
        ('\\ is taken for /', lambda name: name.replace('\\', '/')),
        ('%-codes are decoded', unquote),
        (
            '\\ is taken for / and %-codes are decoded',
            lambda name: unquote(name.replace('\\', '/')),
        ),
    )
    above = table.absolute().parent.parent
    bases = (
        ('', str(table.parent)),
        (f'its paths are relative to {above}', str(above)),
        ('its paths are relative to the current folder', ''),
    )
    return [
        (', '.join(filter(None, (change, place))), form, base)
        for change, form in forms
        for place, base in bases
    ]


def _nowhere(table: Path, name: str, count: int) -> str:
    looked = 'it is an absolute path or an address, which does not lead to a file here'
    if not (_ELSEWHERE.match(name) or os.path.isabs(name)):
        parent = table.absolute().parent
        looked = f'looked in {", ".join(map(str, (parent, parent.parent, Path.cwd())))}'
    return (
        f'{table}: {count} of {count} files not found, the first is {name!r}; {looked}. Write '
        "paths relative to the table's folder"
    )
