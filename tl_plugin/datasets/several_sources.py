from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dataset import BaseDataset, ConcatDataset
from mmpretrain.registry import DATASETS

from tl_plugin.datasets.bad_data import describe_data, differing_names


@DATASETS.register_module()
class SeveralSources(ConcatDataset):
    """Several labelled domains as one source, each image marked with the number of its own.

    mmengine's ``ConcatDataset``, whose arguments it takes; all have the same classes. Beside it,
    ``source_index``, counted from 0, comes with each image, by which an alignment with
    ``num_sources`` tells them apart. Others take them all for one source.

    Args:
        datasets: Configs of the data sets.
        lazy_init: As in ``ConcatDataset``. Defaults to False.
        ignore_keys: As in ``ConcatDataset``. Defaults to None.

    Raises:
        ValueError: If two of them have different classes; says which are missing where.
    """

    def __init__(
        self,
        datasets: Sequence[BaseDataset | dict],
        lazy_init: bool = False,
        ignore_keys: str | list[str] | None = None,
    ) -> None:
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise ValueError(
                'SeveralSources needs datasets=[...], one config for each source, got '
                f'{datasets!r}'
            )
        built = [DATASETS.build(one) if isinstance(one, dict) else one for one in datasets]
        _check_classes(built)
        super().__init__(built, lazy_init, ignore_keys)

    def __getitem__(self, idx: int) -> Any:
        item = super().__getitem__(idx)
        number, _ = self._get_ori_dataset_idx(idx)
        sample = item.get('data_samples')
        if sample is None:
            item['source_index'] = number
        else:
            sample.set_field(number, 'source_index', field_type='metainfo')
        return item


def _check_classes(datasets: Sequence[Any]) -> None:
    first, *others = [
        (f'source {number} ({describe_data(dataset)})', list(names))
        for number, dataset in enumerate(datasets)
        if (names := (getattr(dataset, 'metainfo', None) or {}).get('classes'))
    ] or [('', [])]
    for name, classes in others:
        if classes != first[1]:
            raise ValueError(
                f'{first[0]} and {name} have different classes: '
                f'{differing_names(first[0], first[1], name, classes)}. Give all sources '
                'metainfo=dict(classes=[...])'
            )
