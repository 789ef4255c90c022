"""Read tables of images and labels, as CSV or JSON, written for any system and folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from tl_plugin.datasets.bad_data import decode_lines
from tl_plugin.stack.messages import short_list

from .images import SPLITS, ImageItem

_IMAGE_WORDS = 'image path file filename file_name image_path img_path filepath image_file'
IMAGE_COLUMNS = tuple(_IMAGE_WORDS.split())
LABEL_COLUMNS = ('label', 'class', 'class_name', 'category', 'gt_label', 'target')
SPLIT_COLUMNS = ('split', 'subset', 'fold')
_MISSING_WORDS = (
    'NaN nan -NaN -nan NA N/A n/a #N/A #NA <NA> None NULL null 1.#IND -1.#IND 1.#QNAN -1.#QNAN ? -'
)
#: Texts that stand for a missing label: those that pandas takes for one, and two of spreadsheets.
MISSING = (*_MISSING_WORDS.split(), '#N/A N/A')
_DECIMAL = re.compile(r'(0|[1-9]\d*)\.\d*')  # not 01, which is a name
_ELSEWHERE = re.compile(r'[A-Za-z]:[\\/]|\\\\|[a-z]+://')
_SPLIT_NAMES = {
    '': '',
    **dict.fromkeys(('train', 'training'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}


def split_name(given: str) -> str | None:
    """Return the split that a folder or a cell names, None if it names none."""
    return _SPLIT_NAMES.get(str(given).strip().lower())


def read_annotations(path: Path, every_file: bool = False) -> tuple[list[ImageItem], list[str]]:
    """Read a table of images.

    CSV with a header (any common delimiter); JSON as a list of records, as lines of records
    (``.jsonl``), as a dict of image to label, as mmengine writes it (``data_list`` and
    ``metainfo.classes``), or as COCO does, with one category an image. The image column is one of
    :data:`IMAGE_COLUMNS`, see :func:`find_files` for its paths; the label column is one of
    :data:`LABEL_COLUMNS` or absent; the split column is one of :data:`SPLIT_COLUMNS` or absent.

    A label that is empty, -1 or one of :data:`MISSING` is unknown. ``1.0`` is 1 where all numbers
    among the labels are whole.

    Args:
        path: The file.
        every_file: Keep the rows whose file isn't there. Defaults to False.

    Returns:
        The images, in the file's order, and notes on what was left out.

    Raises:
        ValueError: If the file isn't such a table, or a line of it can't be read; names the line or
            the record, and says what is there instead. If none of its files is there.
    """
    items, notes = read_rows(path)
    files, missing, ways = find_files(path, [item.name for item in items])
    items = [replace(item, name=name) for item, name in zip(items, files)]
    _check_contradictions(items, path)
    notes += [f'{path}: {way}.' for way in ways]
    if missing:
        notes.append(
            f'{path}: {len(missing)} of {len(items)} files not found and left out of training, the '
            f'first is {items[missing[0]].name!r} of record {missing[0] + 1}.'
        )
    if not every_file:
        gone = set(missing)
        items = [item for row, item in enumerate(items) if row not in gone]
    return items, notes


def read_rows(path: Path) -> tuple[list[ImageItem], list[str]]:
    """Read a table of images without looking for the files.

    Args:
        path: The file, as :func:`read_annotations` reads it.

    Returns:
        The images, named as the table names them, and notes on labels that are missing.

    Raises:
        ValueError: If the file isn't such a table.
    """
    lines, classes = decode_lines(path, path.read_bytes()), None
    if path.suffix.lower() in ('.csv', '.tsv'):
        records = _csv_records(path, lines)
    elif path.suffix.lower() == '.jsonl':
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        records = [_parse_json(line, f'{path}, line {number}') for number, line in numbered]
    else:
        records, classes = _json_records(path, '\n'.join(lines))
    cells, items = [], []
    for number, record in enumerate(records, 1):
        where = f'{path}, record {number}'
        if not isinstance(record, Mapping):
            raise ValueError(
                f'{where}: expected an object with an image and a label, got {_shown(record)}'
            )
        cells.append({_column(key): value for key, value in record.items()})
        items.append(_item(cells[-1], classes, where))
    if not items:
        raise ValueError(f'{path} lists no images')
    if classes is None:
        items = _whole_numbers(items)
    _check_contradictions(items, path)
    return items, _label_notes(cells, items, path)


def _csv_records(path: Path, lines: list[str]) -> list[dict]:
    delimiter = None
    # How Excel declares the delimiter.
    given = re.fullmatch(r'"?sep=(.)"?', lines[0].strip(), re.IGNORECASE) if lines else None
    if given:
        delimiter, lines = given[1], ['', *lines[1:]]
    delimiter = delimiter or _delimiter(next((line for line in lines if line.strip()), ''))
    rows = csv.reader(io.StringIO('\n'.join(lines)), delimiter=delimiter, strict=True)
    header, records = None, []
    try:
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue  # also as spreadsheets write it: delimiters alone
            if header is None:
                header = [_column(cell) for cell in row]
                twice = [name for name, count in Counter(header).items() if name and count > 1]
                if twice:
                    raise ValueError(
                        f'{path}, line {rows.line_num}: the columns '
                        f'{", ".join(map(repr, sorted(twice)))} come twice'
                    )
                continue
            if len(row) != len(header):
                raise ValueError(
                    f'{path}, line {rows.line_num}: expected {len(header)} cells, one for each '
                    f'of the columns {", ".join(header)}, got {len(row)}: {row!r}'
                )
            records.append(dict(zip(header, row)))
    except csv.Error as error:
        raise ValueError(f'{path}, line {rows.line_num}: {error}') from error
    return records


def _delimiter(header: str) -> str:
    """Return the delimiter that finds an image column, or else the most columns."""

    def columns(delimiter: str) -> tuple[bool, int]:
        names = [_column(cell) for cell in next(csv.reader([header], delimiter=delimiter), [])]
        return bool(set(IMAGE_COLUMNS) & set(names)), len(names)

    return max(',;\t|', key=columns)


def _column(name: object) -> str:
    """Return the name of a column for comparison: ``Image Path`` and ``image-path`` are equal."""
    return re.sub(r'[\s-]+', '_', str(name).strip().lower())


def _parse_json(text: str, where: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where} is no JSON: {error}') from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f'the key {twice!r} comes twice')
    return found


def _json_records(path: Path, text: str) -> tuple[list, list | None]:
    content = _parse_json(text, str(path))
    classes = None
    if isinstance(content, dict) and 'data_list' in content:
        classes = content.get('metainfo')
        classes = classes.get('classes') if isinstance(classes, dict) else classes
        if classes is not None and not (
            isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        ):
            raise ValueError(
                f'{path}: expected metainfo.classes to be a list of names, got {classes!r}'
            )
        content = content['data_list']
    elif isinstance(content, dict) and isinstance(content.get('images'), list):
        content = _coco_records(content, path)
    elif isinstance(content, dict):
        content = [{'image': image, 'label': label} for image, label in content.items()]
    if not isinstance(content, list):
        raise ValueError(
            f'{path}: expected a list of records, an object of image and label, or one with '
            f'data_list, got {type(content).__name__}'
        )
    return content, classes


def _coco_records(content: Mapping, path: Path) -> list[dict]:
    """Give each image of a COCO file the one category that its annotations name."""
    try:
        names = {one['id']: one['name'] for one in content.get('categories') or ()}
        labels: dict = {}
        for one in content.get('annotations') or ():
            labels.setdefault(one['image_id'], set()).add(names[one['category_id']])
        images = [(one['file_name'], labels.get(one['id'], ())) for one in content['images']]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected images, annotations and categories as COCO has them, but an entry '
            f'lacks or refers to {error}'
        ) from error
    for name, found in images:
        if len(found) > 1:
            raise ValueError(
                f'{path}: {name} has objects of {len(found)} categories, '
                f'{short_list(sorted(found))}, and images are compared by one class each'
            )
    return [dict(image=name, label=next(iter(found), None)) for name, found in images]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'


def _item(cells: Mapping, classes: Sequence[str] | None, where: str) -> ImageItem:
    image = _cell(cells, IMAGE_COLUMNS)
    if image is None or (isinstance(image, str) and not image.strip()):
        raise ValueError(
            f'{where}: found no image among the columns {", ".join(cells)}; '
            f'name it one of {", ".join(IMAGE_COLUMNS)}'
        )
    if not isinstance(image, str):
        raise ValueError(f'{where}: expected the path of an image, got {_shown(image)}')
    given = _cell(cells, SPLIT_COLUMNS) or ''
    split = split_name(given)
    if split is None:
        raise ValueError(f'{where}: the split is {given!r}, expected one of {", ".join(SPLITS)}')
    label = _label(_cell(cells, LABEL_COLUMNS), classes, where)
    return ImageItem(name=image.strip(), label=label, split=split)


def _label(label: object, classes: Sequence[str] | None, where: str) -> str | None:
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # as tables are written in which some labels are missing
    if isinstance(label, bool) or not isinstance(label, (str, int, type(None))):
        raise ValueError(
            f'{where}: expected a label that is a name or a number, got {_shown(label)}'
        )
    if label is None or str(label).strip() in ('', '-1', '-1.0', *MISSING):
        return None
    if classes is not None and isinstance(label, int):
        if not 0 <= label < len(classes):
            raise ValueError(
                f'{where}: the label is {label}, but metainfo.classes has {len(classes)} names, '
                f'0 to {len(classes) - 1}'
            )
        label = classes[label]
    if classes is not None and label not in classes:
        raise ValueError(
            f'{where}: the label is {label!r}, which is none of metainfo.classes: '
            f'{", ".join(classes)}'
        )
    return str(label).strip()


def _whole_numbers(items: list[ImageItem]) -> list[ImageItem]:
    """Read 1.0 as 1, where no number among the labels has a fraction."""
    numbers = {item.label for item in items if item.label and _DECIMAL.fullmatch(item.label)}
    if not all(float(number).is_integer() for number in numbers):
        return items
    whole = {number: str(int(float(number))) for number in numbers}
    return [replace(item, label=whole.get(item.label, item.label)) for item in items]


def _label_notes(cells: Sequence[Mapping], items: Sequence[ImageItem], path: Path) -> list[str]:
    columns = dict.fromkeys(name for row in cells for name in row)
    column = next((name for name in LABEL_COLUMNS if name in columns), None)
    missing = Counter(
        str(row[column]).strip()
        for row, item in zip(cells, items)
        if item.label is None and row.get(column) is not None
    )
    named = ', '.join(repr(marker) for marker in missing if marker in MISSING)
    notes = []
    if named:
        notes.append(
            f'{path}: {sum(missing.values())} of {len(items)} labels are missing: {named} in '
            f'{column!r} is taken for no label.'
        )
    if any(item.label is not None for item in items):
        return notes
    used = {*IMAGE_COLUMNS, *SPLIT_COLUMNS, *LABEL_COLUMNS, ''}
    others = [name for name in columns if name not in used]
    if others:
        notes.append(
            f'{path}: no labels are read: they are expected in a column called '
            f'{", ".join(LABEL_COLUMNS)}; not used: {", ".join(others)}.'
            + _categorical(cells, others)
        )
    return notes


def _categorical(cells: Sequence[Mapping], columns: Sequence[str]) -> str:
    for name in columns:
        values = [str(row.get(name)).strip() for row in cells]
        if 1 < len(set(values)) <= len(values) / 2:
            shown = ', '.join(map(repr, sorted(set(values))[:5]))
            return (
                f' {name!r} has {len(set(values))} values in {len(values)} rows ({shown}): if '
                'these are the labels, call the column label.'
            )
    return ''


def _check_contradictions(items: Sequence[ImageItem], path: Path) -> None:
    labels: dict[str, tuple[int, str]] = {}
    for number, item in enumerate(items, 1):
        if item.label is None:
            continue
        before, label = labels.setdefault(item.name, (number, item.label))
        if label != item.label:
            raise ValueError(
                f'{path}: record {before} labels {item.name} {label!r}, and record {number} '
                f'{item.label!r}'
            )


def _cell(cells: Mapping, names: Iterable[str]) -> object:
    return next((cells[name] for name in names if name in cells), None)


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
    def slashes(name: str) -> str:
        return name.replace('\\', '/')

    forms = (
        ('', str),
        ('\\ is taken for /', slashes),
        ('%-codes are decoded', unquote),
        ('\\ is taken for / and %-codes are decoded', lambda name: unquote(slashes(name))),
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
