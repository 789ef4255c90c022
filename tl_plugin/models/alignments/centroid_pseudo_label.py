from __future__ import annotations

import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import check_images
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class CentroidPseudoLabelAlignment(Alignment):
    """Cross-entropy of target images against the labels of their nearest class centroids.

    Liang et al., "Do We Really Need to Access the Source Data?" (SHOT), ICML 2020, arXiv
    2002.08546, the second term of equation 8. :class:`CentroidPseudoLabelHook` finds the labels.
    It uses the target alone.

    Args:
        loss_weight: Factor of the loss. Defaults to 0.3, as in the paper.
        **kwargs: ``in_features``, ``num_classes``, ``gamma``, ``init_cfg``: see
            :class:`Alignment`.
    """

    needs_logits = True
    needs_source = False

    @checked
    def __init__(self, loss_weight: float = 0.3, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the mean over target images, those without a label counting as zero."""
        check_images('a pseudo-label loss', target=target.logits)
        if target.pseudo_labels is None:
            raise ValueError(
                'CentroidPseudoLabelAlignment needs the labels that a hook finds: add '
                "dict(type='CentroidPseudoLabelHook') to custom_hooks, as the overlay shot does"
            )
        losses = F.cross_entropy(
            target.logits.float(), target.pseudo_labels, reduction='none', ignore_index=-1
        )
        return losses.mean()
