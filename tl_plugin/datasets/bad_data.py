"""Explain why a data set can't be built: which file, which line, which classes differ.

mmengine and mmpretrain split the lines of annotation files, convert labels and compare classes
without saying where they were when one doesn't fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.fileio import get
from mmengine.runner import FlexibleRunner, Runner
from mmpretrain.datasets import CustomDataset, custom
from mmpretrain.registry import DATASETS

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name

from .folders import is_image_name
from .wrappers import inner_configs, wrapped

#: How to fix a data set whose folders are mistaken for classes; an option follows.
UNLABELLED = 'if its folders are no classes (dates, cameras, places), it is unlabelled:'
_KEYS = ('data_root', 'data_prefix', 'ann_file', 'split')
_ENCODING = 'save it as UTF-8 ("CSV UTF-8" in spreadsheets)'


@contextmanager
def naming_bad_data() -> Iterator[None]:
    """Make errors of runners that build loaders name the data.

    Put it around whatever builds loaders: ``Runner.build_dataloader``, or a whole
    ``Runner.train()``. Errors from elsewhere pass as they are.

    Raises:
        ValueError: If a line of an annotation file can't be read, a data set has no images or
            other classes than its config says, or a training loader yields no batch.
    """
    kinds = (Runner, FlexibleRunner)
    originals = [(kind, kind.__dict__['build_dataloader'], kind.build_train_loop) for kind in kinds]
    for kind, build_dataloader, build_train_loop in originals:
        kind.build_dataloader = staticmethod(_naming_data(build_dataloader.__func__))
        kind.build_train_loop = _checking_batches(build_train_loop)
    try:
        yield
    finally:
        for kind, build_dataloader, build_train_loop in originals:
            kind.build_dataloader = build_dataloader
            kind.build_train_loop = build_train_loop


def _naming_data(build_dataloader: Callable) -> Callable:
    @wraps(build_dataloader)
    def build(dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        with _explained(dataloader.get('dataset') if isinstance(dataloader, dict) else None):
            return build_dataloader(dataloader, *args, **kwargs)

    return build


def _checking_batches(build_train_loop: Callable) -> Callable:
    @wraps(build_train_loop)
    def build(runner: Any, loop: Any) -> Any:
        built = build_train_loop(runner, loop)
        loader = getattr(built, 'dataloader', None)
        if hasattr(loader, '__len__') and hasattr(getattr(loader, 'dataset', None), '__len__'):
            check_batches('train', loader)
        return built

    return build


def build_named_dataset(config: dict) -> Any:
    """Build a data set, with an error that names its data where that fails.

    Args:
        config: Its config.

    Raises:
        ValueError: As in :func:`naming_bad_data`.
    """
    with _explained(config):
        return DATASETS.build(config)


def describe_data(dataset: Any) -> str:
    """Describe a data set by its type and by where its data come from.

    Args:
        dataset: A data set, or the config of one; what it wraps is described too.

    Example:
        >>> photos = dict(type='CustomDataset', data_root='photos', pipeline=[])
        >>> describe_data(photos), describe_data(dict(type='RepeatDataset', dataset=photos))
        ("CustomDataset(data_root='photos')", "RepeatDataset(CustomDataset(data_root='photos'))")
    """
    details = [describe_data(inner) for inner in wrapped(dataset)]
    if not details:
        get_value = dataset.get if isinstance(dataset, dict) else partial(getattr, dataset)
        values = {key: get_value(key, None) for key in _KEYS}
        if isinstance(values['data_prefix'], dict):  # as it is once built, below data_root
            prefix = str(values['data_prefix'].get('img_path') or '')
            values['data_prefix'] = prefix if prefix.rstrip('/') != values['data_root'] else None
        details = [f'{key}={value!r}' for key, value in values.items() if value]
    return f'{type_name(dataset) or "a data set"}({", ".join(details)})'


def check_batches(name: str, loader: Any) -> None:
    """Refuse a loader that yields no batch.

    Args:
        name: What the loader is called, for the message: 'train', 'source', 'target'.
        loader: A loader.

    Raises:
        ValueError: If it is empty.
    """
    if hasattr(loader.dataset, '__len__') and len(loader.dataset) == 0:
        raise ValueError(f'the {name} data set has no images: {describe_data(loader.dataset)}')
    if len(loader) == 0:
        raise ValueError(
            f'the {name} loader yields no batch: its data set has {len(loader.dataset)} images, '
            f'its batch size is {loader.batch_size} and drop_last is {loader.drop_last}; give it '
            'more images, a smaller batch or drop_last=False'
        )


def differing_names(one: str, names: Sequence[str], other: str, others: Sequence[str]) -> str:
    """Describe which names are on one side alone.

    Args:
        one: What the first side is called.
        names: Its names.
        other: What the second side is called.
        others: Its names.

    Example:
        >>> differing_names('train', ['cat', 'dog'], 'val', ['cat', 'cow', 'hen'])
        'missing in train: cow, hen; missing in val: dog'
        >>> differing_names('train', ['cat', 'dog'], 'val', ['dog', 'cat'])
        'their order differs, number 0 is cat in train and dog in val'
    """
    lacking = [
        f'missing in {side}: {short_list([name for name in theirs if name not in own])}'
        for side, own, theirs in ((one, names, others), (other, others, names))
        if set(theirs) - set(own)
    ]
    if lacking:
        return '; '.join(lacking)
    for number, (first, second) in enumerate(zip(names, others)):
        if first != second:
            return (
                f'their order differs, number {number} is {first} in {one} and {second} in {other}'
            )
    return f'{one} has {len(names)} names and {other} {len(others)}, some of them twice'


def decode_lines(path: object, raw: bytes) -> list[str]:
    """Decode lines of UTF-8, with or without a byte-order mark.

    Args:
        path: The file's name, for messages.
        raw: Its content.

    Raises:
        ValueError: If it is something else; names the line and the byte.

    Example:
        >>> decode_lines('list.txt', 'größe.jpg 1'.encode('latin-1'))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: list.txt, line 1: expected text in UTF-8, got byte 0xf6 after 'gr': save it ...
    """
    if raw.startswith((b'\xff\xfe', b'\xfe\xff')):
        raise ValueError(f'{path}, line 1: expected text in UTF-8, got UTF-16: {_ENCODING}')
    lines = []
    for number, line in enumerate(raw.removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):
        try:
            lines.append(line.decode('utf-8').rstrip('\r'))
        except UnicodeDecodeError as error:
            before = line[: error.start].decode('utf-8')[-40:]
            raise ValueError(
                f'{path}, line {number}: expected text in UTF-8, got byte '
                f'{line[error.start]:#04x} after {before!r}: {_ENCODING}'
            ) from error
        if '\0' in lines[-1]:
            raise ValueError(f'{path}, line {number}: expected text, got a zero byte: no text file')
    return lines[:-1] if lines[-1] == '' else lines


@contextmanager
def _explained(config: Any) -> Iterator[None]:
    """Raise an error that names the data, instead of one that does not."""
    try:
        yield
    except Exception as error:
        if isinstance(config, dict) and not isinstance(error, FileNotFoundError):
            _explain(config, error)
        raise


def _explain(config: dict, error: Exception) -> None:
    """Raise the error that names the data; return where ``error`` says enough by itself."""
    for inner in inner_configs(config):
        _check_annotations(inner, error)
    # How mmengine and mmpretrain say that there is no image.
    if 'need at least one array to concatenate' in str(error) or 'Found 0 files' in str(error):
        raise ValueError(no_images(config)) from error
    if isinstance(error, AssertionError) and 'subfolders' in str(error):
        for inner in inner_configs(config):
            _check_folders(inner, error)
    if 'meta information' in str(error) or 'of classes in the' in str(error):
        _check_joined(config, error)


def no_images(config: dict) -> str:
    """Say that a data set has no images, and how to read a folder that has some outside classes.

    Args:
        config: Its config.
    """
    inner = inner_configs(config)
    message = f'the data set has no images: {" or ".join(map(describe_data, inner))}'
    for root in (str(one.get('data_root') or one.get('data_prefix') or '') for one in inner):
        if os.path.isdir(root) and any(map(is_image_name, os.listdir(root))):
            message += f'. {root} has images outside class folders: with_label=False reads them'
    return message


def _check_folders(config: dict, error: Exception) -> None:
    dataset = _built_lazily(config)
    if not isinstance(dataset, CustomDataset) or dataset.CLASSES is None or dataset.ann_file:
        return
    folders, _ = custom.find_folders(dataset.img_prefix)
    if len(folders) != len(dataset.CLASSES):
        raise ValueError(
            f'{describe_data(dataset)} has {len(folders)} class folders and '
            f'{len(dataset.CLASSES)} classes in its config: '
            f'{differing_names("the folders", folders, "the config", dataset.CLASSES)}. A '
            f'class without images needs an empty folder; {UNLABELLED} with_label=False'
        ) from error


def _check_joined(config: dict, error: Exception) -> None:
    """Find the joined data sets whose classes differ, innermost first."""
    inner = wrapped(config)
    for each in inner:
        if isinstance(each, dict):
            _check_joined(each, error)
    if not config.get('datasets'):
        return
    built = [DATASETS.build(each) if isinstance(each, dict) else each for each in inner]
    first, *others = [
        (describe_data(each), (each.metainfo or {}).get('classes') or ()) for each in built
    ]
    for other, names in others:
        if names != first[1]:
            how = 'the classes of one are a list and those of the other a tuple'
            if list(names) != list(first[1]):
                how = differing_names(*first, other, names)
            raise ValueError(
                f'{type_name(config)} joins {first[0]} and {other}, whose classes differ: {how}. '
                'Give all of them metainfo=dict(classes=[...]), in one order'
            ) from error


def _built_lazily(config: dict) -> Any:
    try:
        return DATASETS.build({**config, 'lazy_init': True})
    except Exception:  # not a matter of its data, then
        return None


def _check_annotations(config: dict, error: Exception) -> None:
    """Find the line or record of the annotation file that a stock data set can't read."""
    dataset = _built_lazily(config)
    path, load = getattr(dataset, 'ann_file', ''), getattr(type(dataset), 'load_data_list', None)
    if not path or load not in (CustomDataset.load_data_list, BaseDataset.load_data_list):
        return
    try:
        raw = get(path)
    except OSError:
        return  # the data set's own error names it
    if load is CustomDataset.load_data_list:
        _check_lines(path, decode_lines(path, raw), dataset.with_label)
    elif path.endswith('.json'):
        try:
            content = json.loads('\n'.join(decode_lines(path, raw)))
        except json.JSONDecodeError as no_json:
            raise ValueError(f'{path} is no JSON: {no_json}') from error
        _check_records(path, content)


def _check_lines(path: str, lines: list[str], with_label: bool) -> None:
    if not lines:
        raise ValueError(f'{path} is empty: expected a line for each image')
    for number, line in enumerate(lines if with_label else (), 1):
        try:
            _, label = line.strip().rsplit(' ', 1)
            int(label)
        except ValueError:
            raise ValueError(
                f'{path}, line {number}: expected the path of an image, a space and the number of '
                f'its class, as in "cat/1.jpg 0", got {line!r}'
            ) from None


def _check_records(path: str, content: Any) -> None:
    if not isinstance(content, dict) or not {'data_list', 'metainfo'} <= set(content):
        got = f'the keys {", ".join(content)}' if isinstance(content, dict) else type(content)
        raise ValueError(f'{path}: expected an object with data_list and metainfo, got {got}')
    if not isinstance(content['metainfo'], dict) or not isinstance(content['data_list'], list):
        raise ValueError(f'{path}: expected metainfo to be an object and data_list a list')
    if not content['data_list']:
        raise ValueError(f'{path}: data_list is empty, expected a record for each image')
    for number, record in enumerate(content['data_list'], 1):
        if not isinstance(record, Mapping) or not isinstance(record.get('img_path'), str):
            raise ValueError(
                f'{path}, record {number}: expected an object with img_path and gt_label, got '
                f'{record!r}'
            )
