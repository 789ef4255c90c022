from __future__ import annotations

import logging

from mmengine.logging import print_log
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import coral_loss
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class DeepCORALAlignment(Alignment):
    """Distance between the covariances of the domains' features (Deep CORAL).

    See :func:`tl_plugin.functional.coral_loss`. Sun and Saenko, "Deep CORAL: Correlation Alignment
    for Deep Domain Adaptation", ECCV 2016 workshops, arXiv 1607.01719. It couples all images of a
    batch and is computed on those of all processes together. A batch with a single image of a
    domain, which has no covariance, is skipped with a warning.

    Args:
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`. The paper sets the weight so that
            this loss and the classification loss end up about equal.
    """

    ignores_class_weights = True

    @checked
    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self._warned = False

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the squared distance, divided by 4 D²."""
        ours, theirs = gather_ranks(source.features), gather_ranks(target.features)
        if 1 in (len(ours), len(theirs)):
            self._warn(len(ours), len(theirs))
            return 0.0 * (ours.sum() + theirs.sum()).float()
        return coral_loss(ours, theirs)

    def _warn(self, num_source: int, num_target: int) -> None:
        # Not an error: the last batch of a pass may be one image, after hours of training.
        if not self._warned:
            print_log(
                f'Deep CORAL skips batches with a single image of a domain (here {num_source} '
                f'source and {num_target} target): no covariance. `drop_last=True` in the loaders '
                'avoids them; a batch size of 1 would skip all',
                logger='current',
                level=logging.WARNING,
            )
            self._warned = True
