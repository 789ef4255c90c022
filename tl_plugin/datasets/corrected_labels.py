from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from tl_plugin.stack.messages import did_you_mean

from .bad_data import describe_data


@DATASETS.register_module()
class CorrectedLabels(BaseDataset):
    """A data set with other labels of some images, and without some others.

    The data themselves stay as they are, and the config has the record of what was changed.

    Args:
        dataset: Config of a data set that holds images, or one that is built.
        changes: Pairs of an image and its class by name, None to leave the image out. An image is
            named by its path, or by its number in ``dataset`` where that holds the pixels.
        indices: As in mmengine's ``BaseDataset``, of the images that are left. Defaults to None.

    Raises:
        ValueError: If a class isn't one of the data set's, an image isn't there, or none is left.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        changes: Sequence[Sequence],
        indices: int | Sequence[int] | None = None,
    ) -> None:
        self._inside = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._inside.full_init()
        self._changes = changes
        super().__init__(
            ann_file='',
            metainfo=dict(self._inside.metainfo),
            indices=indices,
            test_mode=self._inside.test_mode,
        )
        # A fold has the pipeline of what it is a fold of.
        self.pipeline = getattr(self._inside, 'dataset', self._inside).pipeline
        # Its images are in this one now.
        self._inside = None

    def load_data_list(self) -> list[dict]:
        """Return what the data set inside records of each image, corrected."""
        classes = self.metainfo.get('classes') or ()
        wanted = {_key(image): label for image, label in self._changes}
        unknown = sorted({str(v) for v in wanted.values() if v is not None and v not in classes})
        if unknown:
            raise ValueError(
                f'corrected labels name the class {unknown[0]!r}, which the data set has not: '
                f'{", ".join(classes)}.{did_you_mean(unknown[0], list(classes))}'
            )
        found, used = [], set()
        for number in range(len(self._inside)):
            info = self._inside.get_data_info(number)
            info.pop('sample_idx', None)
            info['original_idx'] = number
            key = _key(info['img_path'] if info.get('img') is None else number)
            if key in wanted:
                used.add(key)
                if wanted[key] is None:
                    continue
                info['gt_label'] = classes.index(wanted[key])
            found.append(info)
        missing = [str(key) for key in wanted if key not in used]
        if missing or not found:
            where = describe_data(self._inside)
            raise ValueError(
                f'corrected labels are of {len(missing)} images that {where} has not, such as '
                f'{missing[0]}: make a new table for these data'
                if missing
                else f'corrected labels leave no image of {where}'
            )
        return found


def _key(image: Any) -> Any:
    return os.path.realpath(image) if isinstance(image, str) else int(image)
