from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import batch_spectral_penalty
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class BSPAlignment(Alignment):
    """Penalty on the largest singular values of the feature matrices (BSP).

    Adversarial alignment strengthens the few directions with the largest singular values at the
    cost of the others, which discriminate classes; the penalty counteracts that. Use it with DANN
    or CDAN. See :func:`tl_plugin.functional.batch_spectral_penalty`. Chen et al.,
    "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain
    Adaptation", ICML 2019. It couples all images of a batch and is computed on those of all
    processes together.

    Args:
        k: How many singular values of each domain are penalised. Defaults to 1.
        loss_weight: Factor of the loss, which grows with the number of images. Defaults to 1e-4,
            for batches of about 36 images a domain.
        **kwargs: ``in_features``, ``num_classes``, ``gamma``, ``init_cfg``: see
            :class:`Alignment`.

    Raises:
        ValueError: If k isn't positive.
    """

    @checked
    def __init__(self, k: int = 1, loss_weight: float = 1e-4, **kwargs) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if k < 1:
            raise ValueError(f'BSPAlignment: k must be >= 1, got {k}')
        self.k = k

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the sum of the k largest squared singular values of each domain."""
        return batch_spectral_penalty(
            gather_ranks(source.features), gather_ranks(target.features), self.k
        )
