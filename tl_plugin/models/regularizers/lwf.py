from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import distillation_loss
from tl_plugin.stack.options import checked

from .base import ModelView, Regularizer


@MODELS.register_module()
class LwFRegularizer(Regularizer):
    """Keep predictions near the source model's: learning without forgetting (LwF).

    Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282. The source model's
    probabilities at a temperature are soft labels of the training images. Costs a forward pass of
    the source model without gradient. The head must be pretrained, too: a new one has no
    predictions worth keeping.

    Args:
        temperature: Divides the logits of both. Defaults to 2, as in the paper.
        loss_weight: Factor of the loss. Defaults to 1, as in the paper.
        **kwargs: ``images``, ``init_cfg``: see :class:`Regularizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    reads = ('logits',)

    @checked
    def __init__(self, temperature: float = 2.0, loss_weight: float = 1.0, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if temperature <= 0:
            raise ValueError(f'LwFRegularizer: temperature must be > 0, got {temperature}')
        self.temperature = temperature

    def forward(self, source: ModelView, adapted: ModelView) -> Tensor:
        """Return the distillation loss, a mean over the images."""
        return distillation_loss(source.logits, adapted.logits, self.temperature)
