"""Finds the line of a stock data set's annotation file that can't be read.

mmpretrain splits lines and converts labels without saying where it is when one doesn't fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mmengine.dataset import BaseDataset
from mmengine.fileio import get
from mmpretrain.datasets import CustomDataset
from mmpretrain.registry import DATASETS

from .texts import decode_lines


def annotation_fault(config: dict) -> str | None:
    """What is wrong with the annotation file of a data set, looked for after it wasn't built.

    Args:
        config: Of a ``CustomDataset`` or a data set derived from it (lines of path and label), or
            of one that reads mmengine's JSON (``data_list`` and ``metainfo``).

    Returns:
        File, line, what was expected and what is there; None if the file is fine, isn't there, or
        is of another kind.
    """
    try:
        dataset = DATASETS.build({**config, 'lazy_init': True})
    except Exception:  # whatever keeps it from being built is no matter of its annotation file
        return None
    path = getattr(dataset, 'ann_file', '')
    load = getattr(type(dataset), 'load_data_list', None)
    checks = {
        CustomDataset.load_data_list: lambda raw: _line_fault(path, raw, dataset.with_label),
        BaseDataset.load_data_list: lambda raw: _json_fault(path, raw),
    }
    if not path or load not in checks:
        return None
    try:
        return checks[load](get(path))
    except OSError:
        return None  # the data set's own error names it


def _line_fault(path: str, raw: bytes, with_label: bool) -> str | None:
    try:
        lines = decode_lines(path, raw)
    except ValueError as error:
        return str(error)
    if not lines:
        return f'{path} is empty: expected a line for each image'
    expected = 'the path of an image, a space and the number of its class, as in "cat/1.jpg 0"'
    for number, line in enumerate(lines, 1):
        parts = line.strip().rsplit(' ', 1)
        if with_label and (len(parts) < 2 or not _is_number(parts[1])):
            return f'{path}, line {number}: expected {expected}, got {line!r}'
    return None


def _is_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _json_fault(path: str, raw: bytes) -> str | None:
    if not path.endswith('.json'):
        return None
    try:
        content = json.loads('\n'.join(decode_lines(path, raw)))
    except json.JSONDecodeError as error:
        return f'{path} is no JSON: {error}'
    except ValueError as error:
        return str(error)
    if not isinstance(content, dict) or not {'data_list', 'metainfo'} <= set(content):
        got = f'the keys {", ".join(content)}' if isinstance(content, dict) else type(content)
        return f'{path}: expected an object with data_list and metainfo, got {got}'
    if not isinstance(content['metainfo'], dict) or not isinstance(content['data_list'], list):
        return f'{path}: expected metainfo to be an object and data_list a list'
    if not content['data_list']:
        return f'{path}: data_list is empty, expected a record for each image'
    for number, record in enumerate(content['data_list'], 1):
        if not isinstance(record, Mapping) or not isinstance(record.get('img_path'), str):
            return (
                f'{path}, record {number}: expected an object with img_path and gt_label, got '
                f'{record!r}'
            )
    return None
