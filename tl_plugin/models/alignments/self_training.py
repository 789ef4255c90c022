from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import check_images, cosine_ramp, masked_consistency_loss
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class SelfTrainingAlignment(Alignment):
    r"""Learn given pseudo-labels at first, and a mean teacher's predictions bit by bit.

    With the weight :math:`\alpha` that rises from 0 to 1 by a cosine over the first half of
    training, :math:`(1 - \alpha)` times the cross-entropy of both views of the target images
    that have a pseudo-label (:class:`FrozenAlignmentHook` gives them), plus :math:`\alpha` times
    that of the strong views of all against the teacher's class, each weighted by the teacher's
    confidence (as in MIC, Hoyer et al., CVPR 2023, arXiv 2212.01322). So labels are refreshed
    softly, by a teacher that has learned the first ones (Tarvainen and Valpola, NeurIPS 2017,
    arXiv 1703.01780), and never by rounds. It uses the target alone and needs
    ``train_cfg.strong_view``. Logs ``confidence`` and ``agreement`` of the teacher with the given
    labels.

    Args:
        teacher_momentum: Momentum of the mean teacher, in [0, 1), see :class:`Teacher`. Defaults to
            0.97.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If the momentum is out of range.
    """

    needs_logits = True
    needs_source = False
    needs_strong_view = True

    @checked
    def __init__(self, teacher_momentum: float = 0.97, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= teacher_momentum < 1:
            raise ValueError(
                f'SelfTrainingAlignment: teacher_momentum must be in [0, 1), got {teacher_momentum}'
            )
        self.teacher_momentum = teacher_momentum

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the loss on both views of the target."""
        check_images('self-training', target=target.logits)
        if target.strong_logits is None:
            raise ValueError(
                'SelfTrainingAlignment needs a strongly augmented view of each target image: set '
                "train_cfg.strong_view = [dict(type='RandAugment', ...)]"
            )
        if target.pseudo_labels is None:
            raise ValueError(
                'SelfTrainingAlignment begins with labels that a hook finds: add dict('
                "type='FrozenAlignmentHook') to custom_hooks, as the overlay self_training does"
            )
        alpha = cosine_ramp(self.progress)
        labels = target.pseudo_labels
        given = sum(
            F.cross_entropy(logits.float(), labels, reduction='sum', ignore_index=-1)
            for logits in (target.logits, target.strong_logits)
        ) / (2 * (labels >= 0).sum().clamp(min=1))
        taught, confidence = masked_consistency_loss(target.strong_logits, target.teacher_logits)
        right = (target.teacher_logits.argmax(1) == labels).float().sum()
        self.log(confidence=confidence, agreement=right / (labels >= 0).sum().clamp(min=1))
        return (1 - alpha) * given + alpha * taught
