from __future__ import annotations

from typing import Any

from mmengine.dataset import ConcatDataset
from mmpretrain.registry import DATASETS


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
    """

    def __getitem__(self, idx: int) -> Any:
        item = super().__getitem__(idx)
        number, _ = self._get_ori_dataset_idx(idx)
        sample = item.get('data_samples')
        if sample is None:
            item['source_index'] = number
        else:
            sample.set_field(number, 'source_index', field_type='metainfo')
        return item
