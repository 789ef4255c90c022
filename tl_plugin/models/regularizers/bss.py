from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import batch_spectral_shrinkage
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import ModelView, Regularizer


@MODELS.register_module()
class BSSRegularizer(Regularizer):
    """Shrink the smallest singular values of a batch's features (BSS).

    Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe
    Transfer Learning", NeurIPS 2019. Directions with small singular values transfer badly, and
    fine-tuning on few labels would overfit them. It prevents negative transfer and complements
    L2-SP, DELTA and LwF, which prevent forgetting.

    Args:
        k: How many singular values are penalised. Defaults to 1, as in the paper.
        loss_weight: Factor of the loss. Defaults to 0.001, as in the paper.
        **kwargs: ``images``, ``init_cfg``: see :class:`Regularizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    reads = ('features',)
    needs_source_model = False

    @checked
    def __init__(self, k: int = 1, loss_weight: float = 0.001, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if k < 1:
            raise ValueError(f'BSSRegularizer: k must be >= 1, got {k}')
        self.k = k

    def forward(self, source: ModelView | None, adapted: ModelView) -> Tensor:
        """Return the penalty of the batch of all processes."""
        return batch_spectral_shrinkage(gather_ranks(adapted.features), self.k)
