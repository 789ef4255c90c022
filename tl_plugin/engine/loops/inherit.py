"""Build the loader config of a domain from another one, and add a strong view of each image."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import inner_configs, joined_datasets, wrapped
from tl_plugin.stack.options import type_name

# Options that choose or label a domain's images: a domain without labels inherits none of them.
_CHOOSE = ('indices', 'filter_cfg')
_LISTS = 'ann_file'
# Samplers that read no label; others may.
_PLAIN_SAMPLERS = ('DefaultSampler', 'InfiniteSampler', 'RepeatAugSampler', 'SequentialSampler')


def inherit_dataloader(base: dict, override: dict | None, key: str, labelled: bool = False) -> dict:
    """Merge a loader config over ``base``, key by key.

    Type, pipeline, metainfo, ``data_prefix``, batch size and workers are inherited. A data set of
    another type inherits the pipeline alone, because its other arguments may mean something else.

    Wrappers of the data sets of ``base`` (``RepeatDataset``, ``ClassBalancedDataset``,
    ``KFoldDataset``, ``ConcatDataset``, ``SeveralSources``) belong to those images and are never
    inherited: the innermost data set is, the first of several. ``dataset.data_root`` refers to
    that one, and so does an override in the wrapper's own nesting, ``dataset.dataset.data_root`` or
    ``dataset.datasets.1.data_root``, which inherits from the second. Several of ``datasets`` are
    joined.

    A domain without labels inherits nothing that chooses or labels images either: no ``ann_file``,
    ``indices``, ``filter_cfg``, batch sampler, nor a sampler that may read labels. Instead of the
    files that an ``ann_file`` lists, a ``CustomDataset`` gives all files of its folder, without
    labels. The override may wrap its own data sets (``type='RepeatDataset'``, ``KFoldDataset``,
    ``ConcatDataset``), but not in a ``ClassBalancedDataset``, which reads labels.

    Args:
        base: The stock loader, such as ``train_dataloader``.
        override: The differences, at least ``dataset``. ``_delete_=True`` in a dict replaces it.
        key: The config key of ``override``, for messages: 'train_cfg.target_dataloader'.
        labelled: Whether the domain's labels may be used, to evaluate or to train on them. Defaults
            to False.

    Returns:
        A new dict, ready for ``Runner.build_dataloader``.

    Raises:
        ValueError: If ``override`` names no data of its own, or data that a domain without labels
            can't have.
        TypeError: If it is no dict.

    Example:
        >>> base = dict(batch_size=8, dataset=dict(type='A', data_root='source', pipeline=[1]))
        >>> inherit_dataloader(base, dict(dataset=dict(data_root='target')), 'target')
        {'batch_size': 8, 'dataset': {'type': 'A', 'data_root': 'target', 'pipeline': [1]}}
    """
    if override is not None and not isinstance(override, dict):
        raise TypeError(f'{key} must be a dict(dataset=...), got {override!r}')
    base, override = plain_copy(base or {}), plain_copy(override or {})
    own = override.pop('dataset', None)
    if not own:
        raise ValueError(
            f'{key} names no data: set at least {key}.dataset, for example '
            f'--cfg-options {key}.dataset.data_root=PATH; what it leaves out is inherited'
        )
    if not isinstance(own, dict):
        raise TypeError(f'{key}.dataset must be a dict(data_root=...), got {own!r}')
    inherited = base.pop('dataset', None)
    _drop_samplers(base, override, labelled)
    dataset = _data_set(inherited, own, f'{key}.dataset', labelled)
    if dataset in (inherited, *inner_configs(inherited)):
        raise ValueError(f'{key}.dataset is the source data itself: point it to the target')
    return {**_merged(override, base), 'dataset': dataset}


def unlabelled_dataloader(loader: dict, key: str) -> dict:
    """Make a stock loader the target's, in which nothing draws images by their labels.

    Options that a wrapper doesn't take, ``train_dataloader.dataset.data_root`` over a
    ``RepeatDataset``, are meant for the data set inside: that one becomes the target, as in
    :func:`inherit_dataloader`.

    Args:
        loader: The loader's config.
        key: Its config key, for messages: 'train_dataloader'.

    Returns:
        A new dict.

    Raises:
        ValueError: If a ``ClassBalancedDataset`` is left.
    """
    dataset = loader['dataset']
    own = {
        name: value
        for name, value in dataset.items()
        if name != 'type' and wrapped(dataset) and not _parameter(dataset.get('type'), name)
    }
    if own:
        kept = {name: value for name, value in dataset.items() if name not in own}
        return inherit_dataloader({**loader, 'dataset': kept}, dict(dataset=own), key)
    return inherit_dataloader({}, loader, key)


def _drop_samplers(base: dict, override: dict, labelled: bool) -> None:
    """Remove the samplers that a loader config can't inherit."""
    sampler, own = base.get('sampler'), override.get('sampler') or {}
    if not labelled:
        base.pop('batch_sampler', None)
        if isinstance(sampler, dict) and type_name(sampler) not in _PLAIN_SAMPLERS:
            base['sampler'] = dict(type='DefaultSampler', shuffle=sampler.get('shuffle', True))
    if type_name(own) not in ('', type_name(base.get('sampler'))):
        base.pop('sampler', None)  # the arguments of another type


def _data_set(inherited: Any, own: dict, where: str, labelled: bool) -> dict:
    """Merge a data set config, including the data sets that it wraps, over an inherited one."""
    if not wrapped(own):
        return _innermost(next(iter(inner_configs(inherited)), {}), own, where, labelled)
    wrapper = {name: own[name] for name in own if name not in ('dataset', 'datasets', '_delete_')}
    if own.get('_delete_'):
        inherited = {}
    if wrapper and 'type' not in wrapper:
        raise ValueError(
            f'{where} sets {", ".join(wrapper)} of a wrapper without its type: wrappers of the '
            f'source are not inherited; give {where}.type, or leave it out'
        )
    if type_name(wrapper) == 'ClassBalancedDataset' and not labelled:
        raise ValueError(
            f'{where} is a ClassBalancedDataset, which draws images by their labels, and this '
            f'domain has none: give the data set inside alone, {where}=dict(type=..., ...)'
        )
    if own.get('dataset'):
        inside = _data_set(inherited, own['dataset'], f'{where}.dataset', labelled)
        return {**wrapper, 'dataset': inside} if wrapper else inside
    bases = [inherited] if wrapper else joined_datasets(inherited)
    joined = []
    for number, part in _numbered(own['datasets'], where):
        base = bases[number] if number < len(bases) else bases[0]
        joined.append(_data_set(base, part, f'{where}.datasets.{number}', labelled))
    if wrapper:
        return {**wrapper, 'datasets': joined}
    return joined[0] if len(joined) == 1 else dict(type='ConcatDataset', datasets=joined)


def _numbered(datasets: Any, where: str) -> list[tuple[int, dict]]:
    """Enumerate joined data sets; options of a command line turn their list into a dict."""
    found = datasets.items() if isinstance(datasets, dict) else enumerate(datasets)
    found = [(str(number), part) for number, part in found]
    wrong = [number for number, part in found if not number.isdigit() or not isinstance(part, dict)]
    if wrong:
        raise TypeError(f'{where}.datasets must be a list of dicts, got {datasets!r}')
    return sorted(((int(number), part) for number, part in found), key=lambda pair: pair[0])


def _innermost(base: dict, own: dict, where: str, labelled: bool) -> dict:
    """Merge the config of a data set that wraps nothing over an inherited one."""
    if own.pop('_delete_', False):
        return own
    if type_name(own) not in ('', type_name(base)):
        base = {'pipeline': base['pipeline']} if 'pipeline' in base else {}
    elif not labelled:
        lists = base.get(_LISTS) if _LISTS not in own else None
        base = {name: value for name, value in base.items() if name not in _CHOOSE}
        if lists:
            base = _without_list(base, own, where)
    return _merged(own, base)


def _without_list(base: dict, own: dict, where: str) -> dict:
    """Remove the annotation file, which chooses and labels the images of another domain."""
    lists = base.pop(_LISTS)
    if _needs(base.get('type'), _LISTS):
        raise ValueError(
            f'{where} needs an ann_file of its own: {type_name(base)} reads from it which images '
            f"there are, and the source's, {lists!r}, says nothing of another domain. Set "
            f'{where}.ann_file, or take a folder, {where}.type=CustomDataset with data_root and '
            'with_label=False'
        )
    if 'with_label' not in own and _parameter(base.get('type'), 'with_label'):
        base['with_label'] = False
    print_log(
        f"{where} does not inherit the source's ann_file={lists!r}, which chooses and labels its "
        f'images: it takes what is in {describe_data({**base, **own})}. To choose among '
        f'these, set {where}.ann_file.',
        logger='current',
    )
    return base


def _needs(kind: Any, argument: str) -> bool:
    """Return whether a type of data set requires an argument."""
    parameter = _parameter(kind, argument)
    return parameter is not None and parameter.default is parameter.empty


def _parameter(kind: Any, argument: str) -> inspect.Parameter | None:
    """Find an argument of a type's ``__init__`` or of its base classes'."""
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    for owner in getattr(kind, '__mro__', ()):
        found = inspect.signature(owner.__init__).parameters if '__init__' in vars(owner) else {}
        if argument in found:
            return found[argument]
    return None


def _merged(own: dict, base: dict) -> dict:
    merged = Config(base)
    merged.merge_from_dict(own, allow_list_keys=False)
    return plain_copy(dict(merged.items()))


def plain_copy(value: Any) -> Any:
    """Copy a config deeply into plain dicts, so that merging leaves the runner's config alone."""
    if isinstance(value, dict):
        return {key: plain_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain_copy(item) for item in value)
    return copy.deepcopy(value)


def plain_pass(cfg: Any, loader: dict, pipeline: list | None = None) -> dict:
    """Make a training loader read each image once, in order, as a test would see it.

    Args:
        cfg: The run's config, whose ``test_dataloader`` or ``val_dataloader`` gives the pipeline.
        loader: The loader's config. It isn't changed.
        pipeline: Transforms instead. Defaults to None: the test's, or else the validation's, or
            else the loader's own.

    Returns:
        A new loader config.
    """
    loader = plain_copy(loader)
    for key in ('test_dataloader', 'val_dataloader'):
        for dataset in inner_configs((cfg.get(key) or {}).get('dataset')):
            pipeline = pipeline or dataset.get('pipeline')
    for dataset in inner_configs(loader['dataset']) if pipeline is not None else []:
        dataset['pipeline'] = plain_copy(pipeline)
    loader.pop('batch_sampler', None)
    return {**loader, 'sampler': dict(type='DefaultSampler', shuffle=False), 'drop_last': False}


def add_strong_view(loader: dict, transforms: Sequence[dict]) -> dict:
    """Make a target loader give each image twice: as its pipeline does, and augmented further.

    The pipeline becomes loading, mmpretrain's ``MultiView`` over the rest, packing. The second view
    goes through the same transforms, drawn again, and then through ``transforms``.

    Args:
        loader: Loader config whose dataset, or each one inside of it, has a pipeline that ends in
            packing.
        transforms: Configs of the strong view's further transforms.

    Returns:
        A new loader config.

    Raises:
        ValueError: If there are no transforms, or the pipeline isn't of that form.

    Example:
        >>> steps = [dict(type='LoadImageFromFile'), dict(type='Flip'), dict(type='PackInputs')]
        >>> views = add_strong_view(dict(dataset=dict(pipeline=steps)), [dict(type='Posterize')])
        >>> [step['type'] for step in views['dataset']['pipeline']]
        ['LoadImageFromFile', 'MultiView', 'PackInputs']
    """
    if not isinstance(transforms, (list, tuple)) or not transforms:
        raise ValueError(
            f'train_cfg.strong_view names no transforms ({transforms!r}): give those of the strong '
            "view of a target image, [dict(type='RandAugment', ...)] for example"
        )
    loader = plain_copy(loader)
    for dataset in inner_configs(loader.get('dataset')) or [{}]:
        dataset['pipeline'] = _two_views(list(dataset.get('pipeline') or []), transforms)
    return loader


def augment_further(loader: dict, transforms: Sequence[dict]) -> dict:
    """Let the images of a source loader go through further transforms, before they are packed.

    Args:
        loader: Loader config whose dataset, or each one inside of it, has a pipeline that ends in
            packing.
        transforms: Configs of the transforms.

    Returns:
        A new loader config.

    Raises:
        ValueError: If the pipeline isn't of that form.
    """
    loader = plain_copy(loader)
    for dataset in inner_configs(loader.get('dataset')) or [{}]:
        pipeline = list(dataset.get('pipeline') or [])
        _check_pipeline(pipeline, 'strong_source', 'source')
        dataset['pipeline'] = [*pipeline[:-1], *plain_copy(list(transforms)), pipeline[-1]]
    return loader


def _check_pipeline(pipeline: list[dict], option: str, domain: str) -> list[str]:
    kinds = [type_name(step) for step in pipeline]
    if not kinds or not kinds[-1].startswith('Pack') or 'MultiView' in kinds:
        raise ValueError(
            f'train_cfg.{option} needs a {domain} pipeline that ends in PackInputs and has no '
            f'MultiView yet, got {" -> ".join(kinds) or "none"}'
        )
    return kinds


def _two_views(pipeline: list[dict], transforms: Sequence[dict]) -> list[dict]:
    kinds = _check_pipeline(pipeline, 'strong_view', 'target')
    first = 1 if kinds[0].startswith('Load') else 0
    weak, pack = pipeline[first:-1], pipeline[-1]
    views = dict(type='MultiView', num_views=[1, 1], transforms=[weak, [*weak, *transforms]])
    return [*pipeline[:first], views, pack]
