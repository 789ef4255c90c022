"""Find the data sets inside of those that wrap others, down to those that hold images.

mmengine's ``RepeatDataset``, ``ClassBalancedDataset`` and ``ConcatDataset``, mmpretrain's
``KFoldDataset``, torch's ``Subset`` and our ``SeveralSources`` hold one data set as ``dataset`` or
several as ``datasets``. Code that asks about classes, paths or pipelines asks the data sets inside.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from mmpretrain.registry import DATASETS
from torch.utils.data import Subset


def dataset_class(config: dict) -> Any:
    """Return the class of a data set's config, whose ``type`` may be its name in the registry."""
    kind = config['type']
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def wrapped(dataset: Any) -> list[Any]:
    """List the data sets that a data set wraps directly.

    Args:
        dataset: A data set, or the config of one.

    Returns:
        Data sets or configs, in order; none where it wraps nothing.
    """
    get = dataset.get if isinstance(dataset, dict) else partial(getattr, dataset)
    joined, single = get('datasets', None), get('dataset', None)
    if joined:
        # Options on the command line make a dict of a list: {'0': ...}.
        return list(joined.values() if isinstance(joined, dict) else joined)
    return [] if single is None or single == {} else [single]


def joined_datasets(dataset: Any) -> list[Any]:
    """List what a data set joins, inside of what repeats, balances or divides it.

    Args:
        dataset: A data set, or the config of one.

    Returns:
        Data sets or configs, in order; the only one inside where nothing is joined.
    """
    inside = wrapped(dataset)
    while len(inside) == 1 and wrapped(inside[0]):
        inside = wrapped(inside[0])
    return inside or [dataset]


def inner_configs(config: Any) -> list[dict]:
    """List the configs of the data sets that hold images, in order.

    Args:
        config: The config of a data set, or a list of configs. What is no dict is passed over.

    Returns:
        The very dicts inside, not copies; the config itself where it wraps nothing.

    Example:
        >>> inner_configs(dict(type='RepeatDataset', dataset=dict(type='CIFAR10')))
        [{'type': 'CIFAR10'}]
    """
    if isinstance(config, (list, tuple)):
        return [found for part in config for found in inner_configs(part)]
    if not isinstance(config, dict):
        return []
    return inner_configs(wrapped(config)) or [config]


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that hold images, in order.

    Args:
        dataset: A built data set, perhaps one that wraps others.

    Yields:
        What is inside; the data set itself where it wraps nothing.
    """
    inner = wrapped(dataset)
    if not inner:
        yield dataset
    for part in inner:
        yield from inner_datasets(part)


def unwrapped(config: dict, dataset: Any) -> Iterator[tuple[dict, Any]]:
    """Yield the data sets that hold images, each with a config that gives the very same images.

    What repeats images (``RepeatDataset``, ``ClassBalancedDataset``) is left out, so that each
    image comes once; a fold of ``KFoldDataset`` becomes the ``indices`` of the data set inside.

    Args:
        config: The config that ``dataset`` was built from.
        dataset: The built data set, perhaps one that wraps others.

    Yields:
        The config and the data set.
    """
    if not wrapped(config) or not wrapped(dataset):
        # Corrected labels stand in for the data set inside, whose images and labels are others.
        yield config, dataset
        return
    fold = getattr(dataset, '_ori_indices', None)
    for part, built in zip(wrapped(config), wrapped(dataset)):
        for inner, found in unwrapped(part, built):
            yield (inner if fold is None else with_indices(inner, fold)), found


def with_indices(config: dict, numbers: Sequence[int]) -> dict:
    """Limit the config of a data set to some of its images.

    Args:
        config: Of a ``BaseDataset``, perhaps limited by ``indices`` already.
        numbers: Of the images that the config gives, those to keep.

    Raises:
        ValueError: If the config's own ``indices`` count from the end.

    Example:
        >>> with_indices(dict(type='CIFAR10', indices=[3, 5, 8]), [0, 2])
        {'type': 'CIFAR10', 'indices': [3, 8]}
    """
    own = config.get('indices')
    if isinstance(own, int) and own < 0:
        raise ValueError(f'write indices={own} of a data set as a list, so that it can be divided')
    # A number is that of the first images, which keep their numbers.
    listed = own is not None and not isinstance(own, int)
    return dict(config, indices=[int(own[i]) if listed else int(i) for i in numbers])


def image_infos(dataset: Any) -> Iterator[dict]:
    """Yield what the data sets inside record of each image, each image once.

    A repeated image comes once; images of other folds are left out.

    Args:
        dataset: A built data set, perhaps one that wraps others.

    Yields:
        As ``get_data_info`` of mmengine's ``BaseDataset`` gives it: ``img_path`` or ``img``,
        ``gt_label``, ``sample_idx`` in the data set that holds it.

    Raises:
        TypeError: If a data set inside does not describe its images.
    """
    for inner, indices in _chosen(dataset, None):
        if not hasattr(inner, 'get_data_info'):
            raise TypeError(
                f'{type(inner).__name__} does not describe its images: expected get_data_info '
                "as in mmengine's BaseDataset"
            )
        for index in range(len(inner)) if indices is None else sorted(indices):
            yield inner.get_data_info(index)


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """Find the data set inside that holds an image, and the image's index in it.

    Args:
        dataset: A built data set, perhaps one that wraps others.
        index: Of the image, from 0.
    """
    inner, (place,) = next(_chosen(dataset, [index]))
    return inner, place


def _chosen(dataset: Any, indices: Iterable[int] | None) -> Iterator[tuple[Any, Any]]:
    """Yield the data sets inside and the indices of their images that are used; None for all."""
    if getattr(dataset, 'datasets', None) is not None:
        for number, part in enumerate(dataset.datasets):
            own = None if indices is None else _of_dataset(dataset, number, indices)
            if own is None or own:
                yield from _chosen(part, own)
    elif not hasattr(dataset, 'dataset'):
        yield dataset, indices
    elif isinstance(dataset, Subset):
        own = dataset.indices if indices is None else [dataset.indices[i] for i in indices]
        yield from _chosen(dataset.dataset, set(map(int, own)))
    elif indices is None or hasattr(dataset, '_ori_indices'):
        # All of a repeated or balanced data set; a fold's inner data set holds its images alone.
        yield from _chosen(dataset.dataset, indices)
    else:
        place = getattr(dataset, '_get_ori_dataset_idx', int)
        yield from _chosen(dataset.dataset, {place(index) for index in indices})


def _of_dataset(joined: Any, number: int, indices: Iterable[int]) -> set[int]:
    """Return which of the indices of joined data sets lie in one of them, as its own indices."""
    if hasattr(joined, '_get_ori_dataset_idx'):
        places = [joined._get_ori_dataset_idx(index) for index in indices]
        return {index for part, index in places if part == number}
    ends = [0, *joined.cumulative_sizes]
    return {i - ends[number] for i in indices if bisect_right(ends, i) - 1 == number}
