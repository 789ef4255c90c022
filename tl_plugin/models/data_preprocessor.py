from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import image_infos, inner_datasets

from .joint_batch import SOURCE, TARGET, TARGET_STRONG, JointBatch, consecutive_rows


class LabelledImages:
    """The target images that keep their labels.

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
        self.paths = {_path_parts(image) for image in images if isinstance(image, str)}
        self._lengths = sorted({len(path) for path in self.paths})

    def __contains__(self, sample: Any) -> bool:
        """Whether an image keeps its label, by ``sample_idx`` and ``img_path`` of its sample."""
        return sample.get('sample_idx') in self.indices or self._path_of(sample) is not None

    def check(self, dataset: Any) -> None:
        """Check that a data set has all of them, with labels.

        Args:
            dataset: The target data set, also one that wraps others.

        Raises:
            TypeError: If the data set has no information about its images.
            ValueError: If one is missing, ambiguous, or has no label; if images are listed by
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
        bare = [
            str(info.get('img_path', info.get('sample_idx')))
            for info in wanted
            if info.get('gt_label') is None
        ]
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
        parts = _path_parts(str(path))
        ends = (parts[-length:] for length in self._lengths)
        return next((end for end in ends if end in self.paths), None)


def _path_parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in Path(path).as_posix().split('/') if part not in ('', '.'))


def _name(info: dict) -> str:
    return str(info.get('img_path', info.get('sample_idx')))


@MODELS.register_module()
class DomainDataPreprocessor(ClsDataPreprocessor):
    """Join a pair of batches and drop the target's labels.

    This is the only place where target labels are dropped, so that no loss can see them, except
    those of listed images. Both batches are normalised alike; mixup and cutmix apply to the source
    alone.

    Takes what :class:`PairedLoader` yields, ``dict(source=batch, target=batch)``, and returns the
    joint inputs, source first, with a :class:`JointBatch` of data samples, whose ``domain`` says
    where each one comes from.
    Where the target pipeline gives two views an image (``MultiView``), the second follows last, as
    ``target_strong``.
    A target batch alone, ``dict(target=batch)``, is what adaptation without a source gets. An
    ordinary batch passes through mmpretrain's ``ClsDataPreprocessor``.

    Args:
        *args: As in ``ClsDataPreprocessor``.
        labelled_target: The few target images that keep their labels, for adaptation with some:
            indices, paths, or a text file of paths, see :class:`LabelledImages`. No other label is
            ever kept. Defaults to None: none is.
        **kwargs: As in ``ClsDataPreprocessor``.

    Raises:
        FileNotFoundError: If the list isn't there.
        ValueError: If it names no image.
    """

    def __init__(
        self, *args: Any, labelled_target: str | Sequence[int | str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.labelled_target = None if labelled_target is None else LabelledImages(labelled_target)

    def check_target(self, dataset: Any) -> None:
        """Raise an error for a target data set that lacks a listed image or its label."""
        if self.labelled_target is not None:
            self.labelled_target.check(dataset)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess an ordinary batch or a pair of batches.

        Raises:
            ValueError: If the images of the two domains differ in shape, or a source image has no
                label.
        """
        if SOURCE not in data and TARGET not in data:
            return super().forward(data, training)
        batches = {}
        if SOURCE in data:
            batches[SOURCE] = super().forward(data[SOURCE], training)
            _check_labelled(batches[SOURCE]['data_samples'])
        views = _unlabelled_views(data[TARGET])
        for name, view in zip((TARGET, TARGET_STRONG), views):
            batches[name] = super().forward(view, training)
            first = next(iter(batches.values()))
            _check_shapes(first['inputs'], batches[name]['inputs'])
        if self.labelled_target is not None:
            originals = data[TARGET].get('data_samples') or []
            for sample, original in zip(batches[TARGET]['data_samples'], originals):
                if 'gt_label' in original and original in self.labelled_target:
                    sample.set_gt_label(original.gt_label.to(self.device))
        for name, batch in batches.items():
            for sample in batch['data_samples']:
                sample.set_field(name, 'domain', field_type='metainfo')
        samples = [sample for batch in batches.values() for sample in batch['data_samples']]
        counts = {name: len(batch['data_samples']) for name, batch in batches.items()}
        return {
            'inputs': torch.cat([batch['inputs'] for batch in batches.values()]),
            'data_samples': JointBatch(samples, consecutive_rows(counts)),
        }


def _unlabelled_views(batch: dict) -> list[dict]:
    inputs = batch['inputs']
    views = inputs if _has_views(inputs) else [inputs]
    if len(views) > 2:
        raise ValueError(
            'a target image comes in one view or in two, a weakly and a strongly augmented one; '
            f'this pipeline gives {len(views)}'
        )
    samples = batch.get('data_samples') or [DataSample() for _ in views[0]]
    # Only metainfo is copied: an allowlist cannot miss a kind of label.
    return [
        {
            'inputs': view,
            'data_samples': [DataSample(metainfo=sample.metainfo) for sample in samples],
        }
        for view in views
    ]


def _has_views(inputs: torch.Tensor | list) -> bool:
    """Tell a list of batches, stacked or not, from a list of images."""
    if isinstance(inputs, torch.Tensor):
        return False
    return isinstance(inputs[0], (list, tuple)) or inputs[0].dim() == 4


def _check_shapes(source: torch.Tensor, target: torch.Tensor) -> None:
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            'source and target images go through the network together and must have one shape, got '
            f'source {tuple(source.shape[1:])} and target {tuple(target.shape[1:])}: end both '
            'pipelines in the same size (target_dataloader.dataset.pipeline)'
        )


def _check_labelled(samples: list[DataSample]) -> None:
    missing = [item for item in samples if 'gt_label' not in item and 'gt_score' not in item]
    if missing:
        names = ', '.join(str(sample.get('img_path', 'an image')) for sample in missing[:3])
        raise ValueError(
            f'{len(missing)} of {len(samples)} source images have no label ({names}): the source '
            'is the labelled domain; give unlabelled images as train_cfg.target_dataloader'
        )
