from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmengine.dataset import BaseDataset, ConcatDataset
from mmpretrain.registry import DATASETS

from .bad_data import describe_data, differing_names


@DATASETS.register_module()
class SeveralSources(ConcatDataset):
    """Several labelled domains as one source, each image marked with the number of its domain.

    mmengine's ``ConcatDataset`` for data sets of the same classes. Each image gets a
    ``source_index``, counted from 0, by which an alignment with ``num_sources`` distinguishes the
    domains. Other alignments treat them as one source.

    A few labelled target images can be one of the sources: ``least_ratio`` repeats them.

    Args:
        datasets: Configs of the data sets.
        lazy_init: As in ``ConcatDataset``. Defaults to False.
        ignore_keys: As in ``ConcatDataset``; classes are never ignored. Defaults to None.
        least_ratio: How many images of each data set there are at least for one of the largest, in
            (0, 1]; a smaller one is repeated, as a whole. Defaults to None, nothing is repeated.

    Raises:
        ValueError: If two of them have different classes (says which are missing where), or the
            ratio is out of its range.
    """

    def __init__(
        self,
        datasets: Sequence[BaseDataset | dict],
        lazy_init: bool = False,
        ignore_keys: str | list[str] | None = None,
        least_ratio: float | None = None,
    ) -> None:
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise ValueError(
                f'SeveralSources needs datasets=[...], one config for each source, got {datasets!r}'
            )
        if least_ratio is not None and not 0 < least_ratio <= 1:
            raise ValueError(
                'SeveralSources: least_ratio is the size of each data set against the largest, in '
                f'(0, 1], got {least_ratio}'
            )
        self._least_ratio = least_ratio
        ignored = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or [])
        # Configs, so that wrappers can be among them; classes are compared with a clearer message.
        super().__init__(datasets, lazy_init, [*ignored, 'classes'])
        _check_classes(self.datasets)

    def full_init(self) -> None:
        """As in ``ConcatDataset``; then set how often each image is repeated."""
        if self._fully_initialized:
            return
        super().full_init()
        if self._least_ratio is not None:
            lengths = [len(dataset) for dataset in self.datasets]
            wanted = self._least_ratio * max(lengths)
            seen = [math.ceil(max(wanted / count, 1)) * count if count else 0 for count in lengths]
            self.cumulative_sizes = self.cumsum([range(count) for count in seen])

    def _get_ori_dataset_idx(self, idx: int) -> tuple[int, int]:
        number, index = super()._get_ori_dataset_idx(idx)
        return number, index % len(self.datasets[number])

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
