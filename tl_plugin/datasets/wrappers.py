"""Opens data sets that wrap others, down to those that hold images.

mmengine's ``RepeatDataset``, ``ClassBalancedDataset`` and ``ConcatDataset``, mmpretrain's
``KFoldDataset``, torch's ``Subset`` and our ``SeveralSources`` hold one data set as ``dataset`` or
several as ``datasets``. Whoever asks about classes, paths or pipelines asks what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator
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
