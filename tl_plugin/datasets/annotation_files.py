"""Tables of images and labels, as CSV or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tl_plugin.datasets.images import SPLITS, ImageItem

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
        ValueError: If the file isn't such a table; says what it has instead.
    """
    if path.suffix.lower() in ('.csv', '.tsv'):
        records, classes = _csv_records(path), None
    else:
        records, classes = _json_records(path)
    items = [_item(record, classes, path, number) for number, record in enumerate(records, 1)]
    if not items:
        raise ValueError(f'{path} lists no images')
    return items


def _csv_records(path: Path) -> list[dict]:
    text = path.read_text(encoding='utf-8-sig')
    try:
        dialect = csv.Sniffer().sniff(text.split('\n', 1)[0], delimiters=',;\t|')
    except csv.Error:
        dialect = csv.excel  # one column alone
    return list(csv.DictReader(text.splitlines(), dialect=dialect))


def _json_records(path: Path) -> tuple[list, list | None]:
    text = path.read_text(encoding='utf-8')
    try:
        if path.suffix.lower() == '.jsonl':
            return [json.loads(line) for line in text.splitlines() if line.strip()], None
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    if isinstance(content, dict) and 'data_list' in content:
        return content['data_list'], (content.get('metainfo') or {}).get('classes')
    if isinstance(content, dict):
        return [{'image': image, 'label': label} for image, label in content.items()], None
    return content, None


def _item(record: object, classes: Iterable | None, path: Path, number: int) -> ImageItem:
    if not isinstance(record, Mapping):
        raise ValueError(
            f'{path}, record {number}: expected an object with an image and a label, got {record!r}'
        )
    cells = {str(key).strip().lower(): value for key, value in record.items() if key is not None}
    image = _cell(cells, IMAGE_COLUMNS)
    if image in (None, ''):
        raise ValueError(
            f'{path}, record {number}: found no image among the columns {", ".join(cells)}; '
            f'name it one of {", ".join(IMAGE_COLUMNS)}'
        )
    label = _cell(cells, LABEL_COLUMNS)
    if classes is not None and isinstance(label, int) and label >= 0:
        label = list(classes)[label]
    unknown = label is None or label == -1 or str(label).strip() in ('', '-1')
    split = split_name(_cell(cells, SPLIT_COLUMNS) or '')
    if split is None:
        raise ValueError(
            f'{path}, record {number}: the split is {_cell(cells, SPLIT_COLUMNS)!r}, expected one '
            f'of {", ".join(SPLITS)}'
        )
    return ImageItem(
        name=str(path.parent / str(image)), label=None if unknown else str(label).strip(),
        split=split)  # fmt: skip


def _cell(cells: Mapping, names: Iterable[str]) -> object:
    return next((cells[name] for name in names if name in cells), None)
