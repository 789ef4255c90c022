from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from .joint_batch import SOURCE, TARGET, TARGET_STRONG, JointBatch, rows_of
from .labelled_images import LabelledImages, labels_to_keep


@MODELS.register_module()
class DomainDataPreprocessor(ClsDataPreprocessor):
    """Turns a pair of batches into one and drops the target's labels.

    This is the one place where target labels are dropped, so that no loss can see them, but those
    of images that are listed. Both
    batches are normalised alike; mixup and cutmix touch the source alone.

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
        """Refuses a target data set in which a listed image isn't, or has no label."""
        if self.labelled_target is not None:
            self.labelled_target.check(dataset)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocesses an ordinary batch or a pair of batches.

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
            self._give_back(batches[TARGET]['data_samples'], data[TARGET].get('data_samples') or [])
        for name, batch in batches.items():
            for sample in batch['data_samples']:
                sample.set_field(name, 'domain', field_type='metainfo')
        samples = [sample for batch in batches.values() for sample in batch['data_samples']]
        counts = {name: len(batch['data_samples']) for name, batch in batches.items()}
        return {
            'inputs': torch.cat([batch['inputs'] for batch in batches.values()]),
            'data_samples': JointBatch(samples, rows_of(counts)),
        }

    def _give_back(self, samples: list[DataSample], originals: list[DataSample]) -> None:
        for sample, original, keeps in zip(
            samples, originals, labels_to_keep(originals, self.labelled_target)
        ):
            if keeps:
                sample.set_gt_label(original.gt_label.to(self.device))


def _unlabelled_views(batch: dict) -> list[dict]:
    inputs = batch['inputs']
    views = inputs if _has_views(inputs) else [inputs]
    if len(views) > 2:
        raise ValueError(
            'a target image comes in one view or in two, a weakly and a strongly augmented one; '
            f'this pipeline gives {len(views)}'
        )
    samples = batch.get('data_samples') or [DataSample() for _ in views[0]]
    # Only what describes the image is carried over: a whitelist can't miss a kind of label.
    return [
        {
            'inputs': view,
            'data_samples': [DataSample(metainfo=sample.metainfo) for sample in samples],
        }
        for view in views
    ]


def _has_views(inputs: torch.Tensor | list) -> bool:
    """A list of batches, stacked or not, in contrast to a list of images."""
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
