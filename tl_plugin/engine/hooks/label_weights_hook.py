"""Weighs training images by how probably their labels are right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.datasets.image_numbers import ImageWeights, keyed_images
from tl_plugin.datasets.label_table import LabelOpinion, read_label_table
from tl_plugin.reliability.class_sets import dataset_classes
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import SOURCE, require_adaptation_model

from ..loops.paired_loader import train_datasets


@HOOKS.register_module()
class LabelWeightsHook(Hook):
    """Weighs labelled images in the classification loss by how probably their labels are right.

    The probabilities are those of ``tools/check_labels.py``, the column ``right`` of its
    ``labels.csv``. An image that isn't in the table, that it doesn't judge, or whose label is
    another one since, counts as right; the log says how many. Weights have mean 1 over the images.

    Args:
        file: The table. Images are identified by their path, or ``train/0`` where the data set
            holds the pixels. Defaults to None, which is refused with the command that writes one.

    Raises:
        ValueError: If no file is given, it isn't such a table, no image of the training is in it,
            or images are mixed.
        FileNotFoundError: If it isn't there.
    """

    # After the model has its weights and before the first step.
    priority = 'NORMAL'

    @checked
    def __init__(self, file: str | None = None) -> None:
        self.file = file

    def before_train(self, runner: Runner) -> None:
        """Read the table, and give the model the weights."""
        model = require_adaptation_model(runner.model, 'LabelWeightsHook')
        refuse_mixed_images(model, 'LabelWeightsHook')
        if self.file is None:
            raise ValueError(
                'LabelWeightsHook needs the table of tools/check_labels.py: set '
                'custom_hooks.LabelWeightsHook.file=work_dirs/check_labels/labels.csv'
            )
        dataset = train_datasets(runner.train_loop).get(SOURCE)
        if dataset is None:
            raise ValueError(
                'LabelWeightsHook weighs source images, and training without a source has none: '
                'take it away'
            )
        weights, found = self._weights(dataset)
        print_log(
            f'LabelWeightsHook: {found["judged"]} of {len(weights)} training images weigh by the '
            f'probability of their label in {self.file}. {found["missing"]} are not judged there, '
            f'{found["changed"]} have another label by now: these count as right.',
            logger='current',
        )
        model.set_image_weights(ImageWeights(weights))

    def _weights(self, dataset: Any) -> tuple[dict, dict[str, int]]:
        table = read_label_table(self.file)
        classes = dataset_classes(dataset)
        weights, found = {}, dict(judged=0, missing=0, changed=0)
        for key, info in keyed_images(dataset, SOURCE):
            opinion = _find(table, key, info)
            given = _class_name(classes, info.get('gt_label'))
            if opinion is None or opinion.right is None:
                kind = 'missing'
            elif given is not None and given != opinion.given:
                kind = 'changed'
            else:
                kind = 'judged'
            found[kind] += key not in weights
            weights[key] = opinion.right if kind == 'judged' else 1.0
        if not found['judged']:
            raise ValueError(
                f'none of the images of {self.file}, such as {next(iter(table))!r}, is among the '
                f'{len(weights)} of the training and judged: give the table that '
                'tools/check_labels.py wrote for these data'
            )
        mean = sum(weights.values()) / len(weights)
        if not mean:
            raise ValueError(f'{self.file} takes all labels for wrong: look at them first')
        return {key: weight / mean for key, weight in weights.items()}, found


def _class_name(classes: Sequence[str], label: Any) -> str | None:
    single = label is not None and np.ndim(label) == 0
    return classes[int(label)] if single and 0 <= int(label) < len(classes) else None


def _find(table: dict[str, LabelOpinion], key: tuple, info: dict) -> LabelOpinion | None:
    if len(key) == 2:
        return table.get(key[1]) or table.get(os.path.realpath(key[1]))
    # As check_labels names images of a config that have no file.
    _, part, place = key
    place = info.get('original_idx', place)
    return table.get(str(Path('train', *([str(part)] if part else []), str(place))))


def refuse_mixed_images(model: Any, who: str) -> None:
    """Refuse mixup and the like, whose images are of no single image.

    Args:
        model: A model that adapts.
        who: Who needs single images, for the message.

    Raises:
        ValueError: If training mixes images.
    """
    if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
        raise ValueError(
            f'{who}: this tells training images apart, and mixup or cutmix make one of two: set '
            'model.train_cfg=None and data_preprocessor.batch_augments=None, or use robust_loss, '
            'which takes mixed labels'
        )
