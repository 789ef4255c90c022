from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import image_infos, inner_datasets


class LabelledImages:
    """Which target images keep their labels.

    Args:
        images: Their indices in the target data set, or the ends of their paths
            ('cat/0001.jpg'), or a text file with one such path a line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it names no image.
    """

    def __init__(self, images: str | Sequence[int | str]) -> None:
        if isinstance(images, str):
            if not Path(images).is_file():
                raise FileNotFoundError(
                    f'data_preprocessor.labelled_target names the file {images!r}, which is not '
                    'there; it holds the path of one labelled target image a line'
                )
            lines = (line.strip() for line in Path(images).read_text(encoding='utf-8').splitlines())
            images = [line for line in lines if line]
        if not images:
            raise ValueError('data_preprocessor.labelled_target names no image')
        self.indices = {image for image in images if isinstance(image, int)}
        self.paths = {_parts(image) for image in images if isinstance(image, str)}
        self._lengths = sorted({len(path) for path in self.paths})

    def __contains__(self, sample: Any) -> bool:
        """Whether an image keeps its label, by ``sample_idx`` and ``img_path`` of its sample."""
        return sample.get('sample_idx') in self.indices or self._path_of(sample) is not None

    def check(self, dataset: Any) -> None:
        """Looks for all of them in a data set.

        Args:
            dataset: The target data set, perhaps one that wraps others.

        Raises:
            TypeError: If the data set tells nothing of its images.
            ValueError: If one isn't there, is there twice, or has no label; if images are listed by
                index and several data sets are joined, each of which counts from 0.
        """
        if self.indices and len(list(inner_datasets(dataset))) > 1:
            raise ValueError(
                'labelled_target lists images by index, and the target data set joins several, '
                f'each of which counts from 0: {describe_data(dataset)}. List the ends of their '
                "paths instead, 'cat/0001.jpg'"
            )
        found = list(image_infos(dataset))
        wanted = [info for info in found if info in self]
        bare = [_name(info) for info in wanted if info.get('gt_label') is None]
        if bare:
            raise ValueError(
                f'labelled_target lists {len(bare)} images to which the target data give no label '
                f'({", ".join(bare[:3])}): with_label=False drops them all; keep class folders or '
                'the annotation file for those that have one'
            )
        counts = Counter(self._path_of(info) for info in wanted)
        missing = ['/'.join(path) for path in self.paths - set(counts)]
        missing += [str(index) for index in self.indices - {i.get('sample_idx') for i in wanted}]
        if missing:
            raise ValueError(
                f'labelled_target lists {len(missing)} images that the target data set of '
                f'{len(found)} images has not: {", ".join(sorted(missing)[:5])}'
            )
        twice = ['/'.join(path) for path in self.paths if counts[path] > 1]
        if twice:
            raise ValueError(
                f'labelled_target: {", ".join(sorted(twice)[:3])} fit several target images; list '
                'them with more of their path'
            )

    def _path_of(self, sample: Any) -> tuple | None:
        path = sample.get('img_path')
        if path is None or not self.paths:
            return None
        parts = _parts(str(path))
        ends = (parts[-length:] for length in self._lengths)
        return next((end for end in ends if end in self.paths), None)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in Path(path).as_posix().split('/') if part not in ('', '.'))


def _name(info: dict) -> str:
    return str(info.get('img_path', info.get('sample_idx')))


def labels_to_keep(samples: Iterable[Any], listed: LabelledImages | None) -> list[bool]:
    """Of which of these images the label may be seen."""
    return [listed is not None and 'gt_label' in sample and sample in listed for sample in samples]
