from __future__ import annotations

from collections.abc import Sequence

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import BANDWIDTHS, maximum_mean_discrepancy
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class DANAlignment(Alignment):
    """Multi-kernel maximum mean discrepancy between the domains' features (DAN).

    See :func:`tl_plugin.functional.maximum_mean_discrepancy`. Long et al., "Learning Transferable
    Features with Deep Adaptation Networks", ICML 2015, arXiv 1502.02791. It couples all images of a
    batch and is computed on those of all processes together.

    Args:
        bandwidths: Of the kernels, in units of the mean squared distance between two images.
            Defaults to 0.25, 0.5, 1, 2, 4.
        unbiased: The estimate that leaves out each image's pair with itself. Defaults to True.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`. The kernels' weights add up to one; code
            that adds up five kernels has five times the weight.

    Raises:
        ValueError: If a bandwidth isn't positive.
    """

    ignores_class_weights = True

    @checked
    def __init__(
        self, bandwidths: Sequence[float] = BANDWIDTHS, unbiased: bool = True, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        if not bandwidths or min(bandwidths) <= 0:
            raise ValueError(
                f'{type(self).__name__}: bandwidths must be positive, at least one of them, got '
                f'{list(bandwidths)}'
            )
        self.bandwidths = tuple(bandwidths)
        self.unbiased = unbiased

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the discrepancy."""
        return maximum_mean_discrepancy(
            gather_ranks(source.features),
            gather_ranks(target.features),
            self.bandwidths,
            self.unbiased,
        )
