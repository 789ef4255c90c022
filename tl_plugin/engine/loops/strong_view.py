from __future__ import annotations

from collections.abc import Sequence

from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.stack.options import type_name

from .inherit import plain_copy


def add_strong_view(loader: dict, transforms: Sequence[dict]) -> dict:
    """A target loader that gives each image twice: as its pipeline does, and augmented further.

    The pipeline becomes loading, mmpretrain's ``MultiView`` over the rest, packing. The second view
    goes through the same transforms, drawn anew, and then through ``transforms``.

    Args:
        loader: Loader config whose dataset, or each one inside of it, has a pipeline that ends in
            packing.
        transforms: Configs of what the strong view goes through besides.

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
            f'train_cfg.strong_view names no transforms ({transforms!r}): give what the strong '
            "view of a target image goes through, [dict(type='RandAugment', ...)] for example"
        )
    loader = plain_copy(loader)
    for dataset in inner_configs(loader.get('dataset')) or [{}]:
        dataset['pipeline'] = _two_views(list(dataset.get('pipeline') or []), transforms)
    return loader


def _two_views(pipeline: list[dict], transforms: Sequence[dict]) -> list[dict]:
    kinds = [type_name(step) for step in pipeline]
    if not kinds or not kinds[-1].startswith('Pack') or 'MultiView' in kinds:
        raise ValueError(
            'train_cfg.strong_view needs a target pipeline that ends in PackInputs and has no '
            f'MultiView yet, got {" -> ".join(kinds) or "none"}'
        )
    first = 1 if kinds[0].startswith('Load') else 0
    weak, pack = pipeline[first:-1], pipeline[-1]
    views = dict(type='MultiView', num_views=[1, 1], transforms=[weak, [*weak, *transforms]])
    return [*pipeline[:first], views, pack]
