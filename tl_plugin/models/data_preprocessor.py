from __future__ import annotations

import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

SOURCE = 'source'
TARGET = 'target'


@MODELS.register_module()
class DomainDataPreprocessor(ClsDataPreprocessor):
    """Turns a pair of batches into one and drops the target's labels.

    This is the one place where target labels are dropped, so that no loss can see them. Both
    batches are normalised alike; mixup and cutmix touch the source alone.

    Takes what :class:`PairedLoader` yields, ``dict(source=batch, target=batch)``, and returns the
    joint inputs, source first, with data samples whose ``domain`` says where each one comes from.
    An ordinary batch passes through mmpretrain's ``ClsDataPreprocessor``, whose arguments it takes.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocesses an ordinary batch or a pair of batches.

        Raises:
            ValueError: If the images of the two domains differ in shape, or a source image has no
                label.
        """
        if SOURCE not in data:
            return super().forward(data, training)
        source = super().forward(data[SOURCE], training)
        target = super().forward(_without_labels(data[TARGET]), training)
        _check_shapes(source['inputs'], target['inputs'])
        _check_labelled(source['data_samples'])
        for name, batch in ((SOURCE, source), (TARGET, target)):
            for sample in batch['data_samples']:
                sample.set_field(name, 'domain', field_type='metainfo')
        return {
            'inputs': torch.cat([source['inputs'], target['inputs']]),
            'data_samples': [*source['data_samples'], *target['data_samples']],
        }


def _without_labels(batch: dict) -> dict:
    samples = batch.get('data_samples')
    if samples is None:
        samples = [DataSample() for _ in batch['inputs']]
    # Only what describes the image is carried over: a whitelist can't miss a kind of label.
    unlabelled = [DataSample(metainfo=sample.metainfo) for sample in samples]
    return {'inputs': batch['inputs'], 'data_samples': unlabelled}


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
