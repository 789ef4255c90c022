"""Opens data sets that wrap others, down to those that hold images.

mmengine's ``RepeatDataset``, ``ClassBalancedDataset`` and ``ConcatDataset``, mmpretrain's
``KFoldDataset``, torch's ``Subset`` and our ``SeveralSources`` hold one data set as ``dataset`` or
several as ``datasets``. Whoever asks about classes, paths or pipelines asks what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


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
    inner = config.get('datasets') or config.get('dataset')
    return inner_configs(inner) if inner else [config]


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that hold images, in order.

    Args:
        dataset: A built data set, perhaps one that wraps others.

    Yields:
        What is inside; the data set itself where it wraps nothing.
    """
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [dataset.dataset] if hasattr(dataset, 'dataset') else []
    if not inner:
        yield dataset
    for part in inner:
        yield from inner_datasets(part)


def opened(config: dict, dataset: Any) -> Iterator[tuple[dict, Any]]:
    """Yield the data sets that hold images, each with a config that gives the very same images.

    What repeats images (``RepeatDataset``, ``ClassBalancedDataset``) is left out, so that each
    image comes once; a fold of ``KFoldDataset`` becomes the ``indices`` of the data set inside.

    Args:
        config: The config that ``dataset`` was built from.
        dataset: The built data set, perhaps one that wraps others.

    Yields:
        The config and the data set.
    """
    if config.get('datasets'):
        for part, inner in zip(config['datasets'], dataset.datasets):
            yield from opened(part, inner)
    elif config.get('dataset'):
        fold = getattr(dataset, '_ori_indices', None)
        for part, inner in opened(config['dataset'], dataset.dataset):
            yield (part if fold is None else narrowed(part, fold)), inner
    else:
        yield config, dataset


def narrowed(config: dict, numbers: Sequence[int]) -> dict:
    """Narrow the config of a data set to some of its images.

    Args:
        config: Of a ``BaseDataset``, perhaps narrowed by ``indices`` already.
        numbers: Of the images that the config gives, those to keep.

    Raises:
        ValueError: If the config's own ``indices`` count from the end.

    Example:
        >>> narrowed(dict(type='CIFAR10', indices=[3, 5, 8]), [0, 2])
        {'type': 'CIFAR10', 'indices': [3, 8]}
    """
    own = config.get('indices')
    if isinstance(own, int) and own < 0:
        raise ValueError(f'write indices={own} of a data set as a list, so that it can be divided')
    # A number is that of the first images, which keep their numbers.
    listed = own is not None and not isinstance(own, int)
    return dict(config, indices=[int(own[i]) if listed else int(i) for i in numbers])
