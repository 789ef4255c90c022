"""The table of labels that ``tools/check_labels.py`` writes, as training reads it."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

from .bad_data import decode_lines


class LabelOpinion(NamedTuple):
    """What was found of one image's label.

    Attributes:
        given: The label that was judged.
        right: Probability that it is right, None where it wasn't judged.
    """

    given: str
    right: float | None


def read_label_table(path: str | Path) -> dict[str, LabelOpinion]:
    """Read what ``tools/check_labels.py`` found.

    Args:
        path: Its ``labels.csv``, also as a spreadsheet wrote it.

    Returns:
        Image -> opinion, by its name in the table and by its real path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it isn't such a table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no table of labels at {path.absolute()}')
    lines = decode_lines(path, path.read_bytes())
    header = lines[0] if lines else ''
    delimiter = max(',;\t', key=header.count)
    table = csv.DictReader(lines, delimiter=delimiter)
    lacking = {'file', 'given', 'right'} - set(table.fieldnames or ())
    if lacking:
        raise ValueError(
            f'{path} has no column {", ".join(sorted(lacking))}: expected the labels.csv of '
            'tools/check_labels.py; write it again'
        )
    found = {}
    for row in table:
        opinion = LabelOpinion(row['given'], _probability(row['right'], f'{path}: {row["file"]}'))
        found[row['file']] = opinion
        beside = path.absolute().parent / row['file']
        found[os.path.realpath(beside if beside.exists() else row['file'])] = opinion
    return found


def _probability(text: str | None, where: str) -> float | None:
    if not (text or '').strip():
        return None
    try:
        value = float(text.replace(',', '.'))
    except ValueError:
        value = float('nan')
    if not 0 <= value <= 1:
        raise ValueError(f'{where}: right must be a probability, got {text!r}')
    return value
