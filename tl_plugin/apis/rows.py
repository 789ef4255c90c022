"""The table of predictions: one row an image, streamed to CSV, JSON or Parquet.

==================== ==============================================================================
column               what it holds
==================== ==============================================================================
image                The file, as it was found; characters that no text line can hold are escaped.
label                Its class where the input knew it; else empty, for a person to fill in.
prediction           The likeliest class.
confidence           Its probability, calibrated where the checkpoint has a calibration.
prediction_2, ...    The next classes, each with ``confidence_2``, ...
sure                 Whether the confidence reaches the wanted precision; empty without calibration.
prediction_set       Classes that hold the true one with the wanted coverage, joined by ``|``.
energy               Higher for images that the model finds unlike those of its training.
distance             Of the features from the nearest class of the reference, usual ones near 1.
unlike_source        Whether energy or distance exceeds that of 99% of the source's images.
fault                Why the image couldn't be read; empty where it could.
==================== ==============================================================================

Reading the table as annotations, ``label`` alone counts: predictions are no labels.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tl_plugin.reliability.files import writing_whole

from .chunks import Chunk
from .image_list import ImageList

FORMATS = ('.csv', '.json', '.jsonl', '.parquet')
Row = dict


@dataclass
class Table:
    """How rows are made of chunks.

    Args:
        names: The images.
        classes: Names of the classes.
        top_k: Classes in a row.
        calibrated: Whether ``sure``, ``prediction_set`` and ``unlike_source`` can be known.
        sure: Confidence from which on a prediction is sure; None where no one is.
        usual_energy: See :class:`~tl_plugin.evaluation.calibration.Calibration`; None likewise.
        usual_distance: Likewise.
    """

    names: ImageList
    classes: Sequence[str]
    top_k: int
    calibrated: bool = False
    sure: float | None = None
    usual_energy: float | None = None
    usual_distance: float | None = None

    def columns(self) -> dict[str, type]:
        """Return the columns and what they hold."""
        ranked = {}
        for rank in range(2, self.top_k + 1):
            ranked.update({f'prediction_{rank}': str, f'confidence_{rank}': float})
        return {
            **dict(image=str, label=str, prediction=str, confidence=float),
            **ranked,
            **dict(sure=bool, prediction_set=str, energy=float, distance=float),
            **dict(unlike_source=bool, fault=str),
        }

    def rows(self, chunk: Chunk) -> Iterator[Row]:
        """Yield the rows of a chunk; what isn't known is None."""
        sets = np.unpackbits(chunk.sets, axis=1, count=len(self.classes)) if self.calibrated else ()
        for place in range(len(chunk)):
            index = chunk.start + place
            row = dict.fromkeys(self.columns())
            row['image'] = one_line(self.names[index])
            row['label'] = self.names.labels.get(index)
            row['fault'] = str(chunk.faults[place]) or None
            if row['fault'] is None:
                self._fill(row, chunk, place)
                if self.calibrated:
                    members = np.flatnonzero(sets[place])
                    row['prediction_set'] = '|'.join(self.classes[label] for label in members)
            yield row

    def _fill(self, row: Row, chunk: Chunk, place: int) -> None:
        for rank, (label, score) in enumerate(zip(chunk.labels[place], chunk.scores[place]), 1):
            end = '' if rank == 1 else f'_{rank}'
            row[f'prediction{end}'] = self.classes[label]
            row[f'confidence{end}'] = _digits(score)
        row['energy'], row['distance'] = (
            _digits(chunk.energy[place]),
            _digits(chunk.distance[place]),
        )
        if self.calibrated:
            row['sure'] = self.sure is not None and bool(chunk.scores[place, 0] >= self.sure)
            row['unlike_source'] = self._unlike(row)

    def _unlike(self, row: Row) -> bool:
        pairs = (row['energy'], self.usual_energy), (row['distance'], self.usual_distance)
        return any(None not in pair and pair[0] > pair[1] for pair in pairs)


def one_line(name: str) -> str:
    r"""Escape what a line of text can't hold: line breaks, and bytes that are no text.

    >>> print(one_line('a b é.jpg'), one_line('two\nlines \udcff.jpg'))
    a b é.jpg two\nlines \udcff.jpg
    """
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode() for char in name
    )


def check_format(out: Path) -> None:
    """Raise an error for a file that can't be written in any format, before anything is computed.

    Raises:
        ValueError: If its extension is none of :data:`FORMATS`.
        ModuleNotFoundError: If Parquet is asked for and pyarrow isn't installed.
    """
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f'--out takes a file that ends in {", ".join(FORMATS)}, got {out}')
    if out.suffix.lower() == '.parquet':
        _pyarrow()


def write_rows(out: Path, chunks: Iterable[Chunk], table: Table) -> None:
    """Write all rows, whole or not at all, with one chunk in memory at a time.

    Args:
        out: The file; its extension says in which format.
        chunks: In order.
        table: How rows are made of them.
    """
    openers = {'.csv': _csv, '.json': _json, '.jsonl': _json_lines, '.parquet': _parquet}
    with writing_whole(out) as temporary, openers[out.suffix.lower()](temporary, table) as write:
        for chunk in chunks:
            write(list(table.rows(chunk)))


Writer = Callable[[list[Row]], None]


@contextmanager
def _csv(path: Path, table: Table) -> Iterator[Writer]:
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, table.columns(), lineterminator='\n')
        writer.writeheader()
        yield lambda rows: writer.writerows(map(_cells, rows))


def _cells(row: Row) -> Row:
    texts = {None: '', True: 'yes', False: 'no'}
    return {
        key: texts[value] if value is None or isinstance(value, bool) else value
        for key, value in row.items()
    }


@contextmanager
def _json(path: Path, table: Table) -> Iterator[Writer]:
    with path.open('w', encoding='utf-8') as file:
        separator = '[\n'

        def write(rows: list[Row]) -> None:
            nonlocal separator
            for row in rows:
                file.write(separator + json.dumps(row, ensure_ascii=False))
                separator = ',\n'

        yield write
        file.write('\n]\n')


@contextmanager
def _json_lines(path: Path, table: Table) -> Iterator[Writer]:
    with path.open('w', encoding='utf-8') as file:
        yield lambda rows: file.writelines(
            json.dumps(row, ensure_ascii=False) + '\n' for row in rows
        )


@contextmanager
def _parquet(path: Path, table: Table) -> Iterator[Writer]:
    arrow = _pyarrow()
    from pyarrow import parquet

    kinds = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in table.columns().items()])
    with parquet.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'Parquet is written by pyarrow, which is not installed: pip install pyarrow, or write '
            'a .csv'
        ) from None
    return pyarrow


def _digits(value: float) -> float | None:
    """Return six digits, as many as single precision has; None for none."""
    return float(f'{value:.6g}') if math.isfinite(value) else None
