from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import class_confusion
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class MCCAlignment(Alignment):
    """Minimum class confusion of the target's predictions (MCC).

    See :func:`tl_plugin.functional.class_confusion`. Jin et al., "Minimum Class Confusion for
    Versatile Domain Adaptation", ECCV 2020, arXiv 1912.03699. It uses the target alone, couples
    all images of a batch and is computed on those of all processes together.

    Args:
        temperature: Divides the logits, so that less certain classes count. Defaults to 2.5.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If the temperature isn't positive.
    """

    needs_logits = True
    needs_source = False

    @checked
    def __init__(self, temperature: float = 2.5, **kwargs) -> None:
        super().__init__(**kwargs)
        if temperature <= 0:
            raise ValueError(f'MCCAlignment: temperature must be > 0, got {temperature}')
        self.temperature = temperature

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the class confusion of the target."""
        return class_confusion(gather_ranks(target.logits), self.temperature)
