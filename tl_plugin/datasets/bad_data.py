"""Says what is wrong with data that no data set can be built from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import DATASETS

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.options import type_name

from .stock_annotations import annotation_fault
from .wrappers import inner_configs, parts

#: Begins the cure where folders are taken for classes and aren't.
UNLABELLED = 'if its folders are no classes (dates, cameras, places), it is unlabelled:'
_KEYS = ('data_root', 'data_prefix', 'ann_file', 'split')


@contextmanager
def naming_bad_data() -> Iterator[None]:
    """Turns what comes from the depths while data sets are built into errors that name the data.

    Put it around whatever builds loaders: ``Runner.build_dataloader``, or a whole
    ``Runner.train()``. Errors from elsewhere pass as they are.

    Raises:
        ValueError: If a line of an annotation file can't be read, a data set has no images or
            other classes than its config says, or a training loader gives no batch.
    """
    try:
        yield
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        raise ValueError(message) from error


def build_named_dataset(config: dict) -> Any:
    """Build a data set, and say what is wrong with its data where that fails.

    Args:
        config: Its config.

    Raises:
        ValueError: As in :func:`naming_bad_data`.
    """
    try:
        return DATASETS.build(config)
    except Exception as error:
        message = explain_dataset(config, error)
        if message is None:
            raise
        raise ValueError(message) from error


def describe_data(dataset: Any) -> str:
    """Names a data set by its type and by where its data come from.

    Args:
        dataset: A data set, or the config of one; of one that wraps others, these are named too.

    Example:
        >>> photos = dict(type='CustomDataset', data_root='photos', pipeline=[])
        >>> describe_data(photos), describe_data(dict(type='RepeatDataset', dataset=photos))
        ("CustomDataset(data_root='photos')", "RepeatDataset(CustomDataset(data_root='photos'))")
    """
    found = parts(dataset)
    if found:
        told = [describe_data(part) for part in found]
    else:
        get = dataset.get if isinstance(dataset, dict) else partial(getattr, dataset)
        values = {key: get(key, None) for key in _KEYS}
        if isinstance(values['data_prefix'], dict):  # as it is once built, below data_root
            prefix = str(values['data_prefix'].get('img_path') or '')
            values['data_prefix'] = prefix if prefix.rstrip('/') != values['data_root'] else None
        told = [f'{key}={value!r}' for key, value in values.items() if value]
    return f'{type_name(dataset) or "a data set"}({", ".join(told)})'


def check_batches(name: str, loader: Any) -> None:
    """Refuses a loader that yields no batch.

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


def _explain(error: Exception) -> str | None:
    for frame in _frames(error):
        values = frame.f_locals
        if frame.f_code.co_name == 'build_dataloader' and 'dataset_cfg' in values:
            return None if 'dataset' in values else explain_dataset(values['dataset_cfg'], error)
        if isinstance(values.get('self'), Runner):
            loop = values['self']._train_loop
            try:
                if isinstance(loop, BaseLoop) and len(loop.dataloader) == 0:
                    check_batches('train', loop.dataloader)
            except ValueError as empty:
                return str(empty)
    return None


def _frames(error: Exception) -> Iterator[Any]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def explain_dataset(config: Any, error: Exception) -> str | None:
    """Say why a data set can't be built.

    Args:
        config: Its config.
        error: What building it ended in.

    Returns:
        The reason, with file and line; None where the error says so by itself.
    """
    if isinstance(error, FileNotFoundError) or not isinstance(config, dict):
        return None
    for part in inner_configs(config):
        fault = annotation_fault(part)
        if fault is not None:
            return fault
    # How mmengine and mmpretrain say that there is no image.
    if 'need at least one array to concatenate' in str(error) or 'Found 0 files' in str(error):
        described = ' or '.join(map(describe_data, inner_configs(config)))
        return f'the data set has no images: {described}'
    if isinstance(error, AssertionError) and 'subfolders' in str(error):
        return _other_folders(config, error)
    return _other_classes(error)


def _other_folders(config: dict, error: Exception) -> str | None:
    for frame in reversed(list(_frames(error))):
        folders, dataset = frame.f_locals.get('classes'), frame.f_locals.get('self')
        if folders is not None and getattr(dataset, 'CLASSES', None) is not None:
            return (
                f'{describe_data(dataset)} has {len(folders)} class folders and '
                f'{len(dataset.CLASSES)} classes in its config: '
                f'{differing_names("the folders", folders, "the config", dataset.CLASSES)}. A '
                f'class without images needs an empty folder; {UNLABELLED} with_label=False'
            )
    return None


def _other_classes(error: Exception) -> str | None:
    """Which classes differ where mmengine refuses to join data sets."""
    if 'meta information' not in str(error) and 'of classes in the' not in str(error):
        return None
    owners = [frame.f_locals.get('self') for frame in _frames(error)]
    joined = next((owner for owner in reversed(owners) if hasattr(owner, 'datasets')), None)
    named = [
        (describe_data(part), (part.metainfo or {}).get('classes') or ())
        for part in getattr(joined, 'datasets', ())
    ]
    for other, names in named[1:]:
        first, classes = named[0]
        if names != classes:
            how = 'the classes of one are a list and those of the other a tuple'
            if list(names) != list(classes):
                how = differing_names(first, classes, other, names)
            return (
                f'{type_name(joined)} joins {first} and {other}, whose classes differ: {how}. Give '
                'all of them metainfo=dict(classes=[...]), in one order'
            )
    return None


def differing_names(one: str, names: Sequence[str], other: str, others: Sequence[str]) -> str:
    """Says which names are on one side alone.

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
    pairs = list(zip(names, others))
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        return f'{one} has {len(names)} names and {other} {len(others)}, some of them twice'
    first, second = pairs[place]
    return f'their order differs, number {place} is {first} in {one} and {second} in {other}'
