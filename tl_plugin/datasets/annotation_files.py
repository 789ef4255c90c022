"""Tables of images and labels, as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tl_plugin.datasets.images import SPLITS, ImageItem
from tl_plugin.datasets.texts import decode_lines

IMAGE_COLUMNS = ('image', 'path', 'file', 'filename', 'file_name', 'image_path', 'img_path',
                 'filepath', 'image_file')  # fmt: skip
LABEL_COLUMNS = ('label', 'class', 'class_name', 'category', 'gt_label', 'target')
SPLIT_COLUMNS = ('split', 'subset', 'fold')
_SPLIT_NAMES = {
    'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
    'test': 'test', 'testing': 'test', '': '',
}  # fmt: skip


def split_name(given: str) -> str | None:
    """The split that a folder or a cell names, None if it names none."""
    return _SPLIT_NAMES.get(str(given).strip().lower())


def read_annotations(path: Path) -> list[ImageItem]:
    """Read a table of images.

    CSV with a header (any common delimiter); JSON as a list of records, as lines of records
    (``.jsonl``), as a dict of image to label, or as mmengine writes it (``data_list`` and
    ``metainfo.classes``). The image column is one of :data:`IMAGE_COLUMNS`, its paths are relative
    to the table's folder; the label column is one of :data:`LABEL_COLUMNS` or absent, a label that
    is empty is unknown; the split column is one of :data:`SPLIT_COLUMNS` or absent.

    Args:
        path: The file.

    Returns:
        The images, in the file's order.

    Raises:
        ValueError: If the file isn't such a table, or a line of it can't be read; names the line or
            the record, and says what is there instead.
    """
    lines = decode_lines(path, path.read_bytes())
    if path.suffix.lower() in ('.csv', '.tsv'):
        records, classes = _csv_records(path, lines), None
    elif path.suffix.lower() == '.jsonl':
        records, classes = _json_lines(path, lines), None
    else:
        records, classes = _json_records(path, '\n'.join(lines))
    items = [_item(record, classes, path, number) for number, record in enumerate(records, 1)]
    if not items:
        raise ValueError(f'{path} lists no images')
    _check_contradictions(items, path)
    return items


def _csv_records(path: Path, lines: list[str]) -> list[dict]:
    try:
        delimiter = csv.Sniffer().sniff(lines[0] if lines else '', delimiters=',;\t|').delimiter
    except csv.Error:
        delimiter = ','  # one column alone
    rows = csv.reader(io.StringIO('\n'.join(lines)), delimiter=delimiter, strict=True)
    header, records = None, []
    try:
        for row in rows:
            if header is None:
                header = _header(row, path)
            elif row:
                if len(row) != len(header):
                    raise ValueError(
                        f'{path}, line {rows.line_num}: expected {len(header)} cells, one for each '
                        f'of the columns {", ".join(header)}, got {len(row)}: {row!r}'
                    )
                records.append(dict(zip(header, row)))
    except csv.Error as error:
        raise ValueError(f'{path}, line {rows.line_num}: {error}') from error
    return records


def _header(row: list[str], path: Path) -> list[str]:
    names = [cell.strip().lower() for cell in row]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{path}, line 1: the columns {", ".join(map(repr, twice))} come twice')
    return names


def _json_lines(path: Path, lines: list[str]) -> list:
    return [
        _parse_json(line, f'{path}, line {number}')
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse_json(text: str, where: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where} is no JSON: {error}') from error


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key {twice!r} comes twice')
    return found


def _json_records(path: Path, text: str) -> tuple[list, list | None]:
    content = _parse_json(text, str(path))
    classes = None
    if isinstance(content, dict) and 'data_list' in content:
        classes = _classes(content.get('metainfo'), path)
        content = content['data_list']
    elif isinstance(content, dict):
        content = [{'image': image, 'label': label} for image, label in content.items()]
    if not isinstance(content, list):
        raise ValueError(
            f'{path}: expected a list of records, an object of image and label, or one with '
            f'data_list, got {type(content).__name__}'
        )
    return content, classes


def _classes(metainfo: object, path: Path) -> list | None:
    classes = metainfo.get('classes') if isinstance(metainfo, dict) else metainfo
    if classes is None:
        return None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(
            f'{path}: expected metainfo.classes to be a list of names, got {classes!r}'
        )
    return classes


def _item(record: object, classes: Sequence[str] | None, path: Path, number: int) -> ImageItem:
    where = f'{path}, record {number}'
    if not isinstance(record, Mapping):
        raise ValueError(f'{where}: expected an object with an image and a label, got {record!r}')
    cells = {str(key).strip().lower(): value for key, value in record.items()}
    image = _cell(cells, IMAGE_COLUMNS)
    if image in (None, ''):
        raise ValueError(
            f'{where}: found no image among the columns {", ".join(cells)}; '
            f'name it one of {", ".join(IMAGE_COLUMNS)}'
        )
    if not isinstance(image, str):
        raise ValueError(f'{where}: expected the path of an image, got {image!r}')
    split = split_name(_cell(cells, SPLIT_COLUMNS) or '')
    if split is None:
        raise ValueError(
            f'{where}: the split is {_cell(cells, SPLIT_COLUMNS)!r}, expected one '
            f'of {", ".join(SPLITS)}'
        )
    label = _label(_cell(cells, LABEL_COLUMNS), classes, where)
    return ImageItem(name=str(path.parent / image), label=label, split=split)


def _label(label: object, classes: Sequence[str] | None, where: str) -> str | None:
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # as tables are written in which some labels are missing
    if isinstance(label, bool) or not isinstance(label, (str, int, type(None))):
        raise ValueError(f'{where}: expected a label that is a name or a number, got {label!r}')
    if label is None or str(label).strip() in ('', '-1'):
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
