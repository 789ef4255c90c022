from __future__ import annotations

from collections.abc import Sequence

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import (
    BANDWIDTHS,
    check_bandwidths,
    gather_ranks,
    joint_maximum_mean_discrepancy,
)
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class JANAlignment(Alignment):
    """Joint maximum mean discrepancy of features and class probabilities (JAN).

    See :func:`tl_plugin.functional.joint_maximum_mean_discrepancy`. Long et al., "Deep Transfer
    Learning with Joint Adaptation Networks", ICML 2017, arXiv 1605.06636. It couples all images of
    a batch and is computed on those of all processes together.

    Args:
        bandwidths: Of the features' kernels, in units of the mean squared distance between two
            images. Defaults to 0.25, 0.5, 1, 2, 4.
        prediction_bandwidth: Of the probabilities' single kernel, in squared distance, which is at
            most 2. Defaults to 1.68, as in the authors' code.
        unbiased: The estimate that leaves out each image's pair with itself. Defaults to True.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`. The kernels' weights add up to one; code
            that adds up five kernels has five times the weight.
    """

    needs_logits = True
    ignores_class_weights = True

    @checked
    def __init__(
        self,
        bandwidths: Sequence[float] = BANDWIDTHS,
        prediction_bandwidth: float = 1.68,
        unbiased: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_bandwidths(type(self).__name__, bandwidths)
        self.bandwidths = tuple(bandwidths)
        check_bandwidths(type(self).__name__, [prediction_bandwidth], 'prediction_bandwidth')
        self.prediction_bandwidth = prediction_bandwidth
        self.unbiased = unbiased

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """The joint discrepancy."""
        layers = [
            [gather_ranks(batch.features), gather_ranks(batch.logits).softmax(dim=1)]
            for batch in (source, target)
        ]
        return joint_maximum_mean_discrepancy(
            *layers,
            bandwidths=[self.bandwidths, [self.prediction_bandwidth]],
            scales=[None, 1.0],
            unbiased=self.unbiased,
        )
