from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config

from tl_plugin.options import type_name

_DATASET_KEY = 'dataset'


def inherit_dataloader(base: dict, override: dict | None, key: str) -> dict:
    """A loader config that takes from ``base`` whatever ``override`` doesn't set, key by key.

    A dataset of the same type inherits key by key too (pipeline, metainfo, classes); one of another
    type inherits the pipeline alone, because its other arguments may mean something else. Where
    ``base`` joins several data sets (``SeveralSources``), the first of them is inherited from.

    Args:
        base: The stock loader, ``train_dataloader`` say.
        override: What differs, at least ``dataset``. ``_delete_=True`` in a dict replaces it whole.
        key: Where ``override`` is set, for messages: 'train_cfg.target_dataloader'.

    Returns:
        A new dict, ready for ``Runner.build_dataloader``.

    Raises:
        ValueError: If ``override`` names no data of its own.
        TypeError: If it is no dict.

    Example:
        >>> base = dict(batch_size=8, dataset=dict(type='A', data_root='source', pipeline=[1]))
        >>> inherit_dataloader(base, dict(dataset=dict(data_root='target')), 'target')
        {'batch_size': 8, 'dataset': {'type': 'A', 'data_root': 'target', 'pipeline': [1]}}
    """
    if override is not None and not isinstance(override, dict):
        raise TypeError(f'{key} must be a dict(dataset=...), got {override!r}')
    base, override = _plain(base), _plain(override or {})
    dataset = override.get(_DATASET_KEY)
    if not dataset:
        raise ValueError(
            f'{key} names no data: set at least {key}.dataset, for example '
            f'--cfg-options {key}.dataset.data_root=PATH; what it leaves out is inherited'
        )
    inherited = _first_of_several(base.get(_DATASET_KEY), dataset)
    if inherited is not None:
        base[_DATASET_KEY] = inherited
    if _type(dataset) not in (None, _type(inherited)):
        pipeline = _find_pipeline(inherited)
        base[_DATASET_KEY] = {} if pipeline is None else {'pipeline': pipeline}
    merged = _plain(Config._merge_a_into_b(override, base))
    if merged[_DATASET_KEY] == inherited:
        raise ValueError(f'{key}.dataset is the source data itself: point it to the target')
    return merged


def _first_of_several(inherited: Any, dataset: Any) -> Any:
    """Several source data sets as one: what names no type of its own is like the first of them."""
    parts = inherited.get('datasets') if isinstance(inherited, dict) else None
    return parts[0] if parts and _type(dataset) is None and 'datasets' not in dataset else inherited


def _type(dataset: Any) -> str | None:
    return (type_name(dataset) or None) if isinstance(dataset, dict) else None


def _plain(value: Any) -> Any:
    """A deep copy in plain dicts: merging in place would write into the runner's config."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return copy.deepcopy(value)


def _find_pipeline(dataset: Any) -> list | None:
    """The pipeline of a dataset config, also where the dataset is wrapped (repeated, joined)."""
    if isinstance(dataset, (list, tuple)):
        return next((found for item in dataset if (found := _find_pipeline(item))), None)
    if not isinstance(dataset, dict):
        return None
    if 'pipeline' in dataset:
        return dataset['pipeline']
    return _find_pipeline(dataset.get('dataset', dataset.get('datasets')))
