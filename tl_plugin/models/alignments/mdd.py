from __future__ import annotations

from collections.abc import Sequence

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import gradient_reversal, margin_disparity_loss
from tl_plugin.stack.options import checked

from .adversarial import AdversarialAlignment, mlp
from .base import DomainBatch


@MODELS.register_module()
class MDDHead(AdversarialAlignment):
    """A second classifier that agrees with the head on the source and not on the target (MDD).

    Behind a gradient reversal, so that the features make disagreement impossible. See
    :func:`tl_plugin.functional.margin_disparity_loss`. Zhang et al., "Bridging Theory and Algorithm
    for Domain Adaptation", ICML 2019, arXiv 1904.05801.

    Logs ``source_agreement`` and ``target_agreement``, the shares of images on which the second
    classifier predicts what the head does, and ``reversal_weight``.

    Args:
        margin: Weight of the source in the second classifier's loss, at least 1. Defaults to 4, as
            in the paper.
        hidden_channels: Widths of its hidden layers. Defaults to (1024,), as in the authors' code.
        norm: 'BN' or None, after each hidden linear layer. Defaults to None.
        dropout: Probability of dropout after each hidden layer. Defaults to 0.5, as there.
        reversal_weight: Gradient-reversal weight at the end of training. Defaults to 0.1, as there.
        **kwargs: ``gamma``: see :class:`AdversarialAlignment`; ``in_features``, ``num_classes``,
            ``loss_weight``, ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range, or there is one class only.
    """

    needs_logits = True
    ignores_class_weights = True

    @checked
    def __init__(
        self,
        margin: float = 4.0,
        hidden_channels: Sequence[int] = (1024,),
        norm: str | None = None,
        dropout: float = 0.5,
        reversal_weight: float = 0.1,
        **kwargs,
    ) -> None:
        super().__init__(reversal_weight=reversal_weight, **kwargs)
        if margin < 1:
            raise ValueError(f'MDDHead: margin must be >= 1, got {margin}')
        if self.num_classes < 2:
            raise ValueError(f'MDDHead: needs at least 2 classes, got {self.num_classes}')
        self.margin = margin
        self.classifier = mlp(self.in_features, hidden_channels, self.num_classes, norm, dropout)

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the second classifier's loss, whose gradient reaches the features reversed."""
        reversal_weight = self.current_reversal_weight()
        features = torch.cat([source.features, target.features])
        logits = self.classifier(gradient_reversal(features, reversal_weight))
        adversary = logits.split([len(source.features), len(target.features)])
        self.log(
            source_agreement=_agreement(source.logits, adversary[0]),
            target_agreement=_agreement(target.logits, adversary[1]),
            reversal_weight=reversal_weight,
        )
        return margin_disparity_loss(source.logits, target.logits, *adversary, self.margin)


def _agreement(logits: Tensor, others: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == others.argmax(dim=1)).float().mean()
