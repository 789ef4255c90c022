from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import entropy_loss
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class EntropyMinimization(Alignment):
    """Mean entropy of the target's predictions.

    Pushes the classes' boundaries out of dense regions of the target. Grandvalet and Bengio,
    "Semi-supervised Learning by Entropy Minimization", NeurIPS 2004. It uses the target alone.

    Args:
        loss_weight: Factor of the loss. Defaults to 0.1: at full weight predictions freeze early
            in training, or collapse to one class.
        **kwargs: ``in_features``, ``num_classes``, ``gamma``, ``init_cfg``: see
            :class:`Alignment`.
    """

    needs_logits = True
    needs_source = False

    @checked
    def __init__(self, loss_weight: float = 0.1, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the mean entropy of the target, in nats."""
        return entropy_loss(target.logits)
