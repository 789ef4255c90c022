from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import joint_maximum_mean_discrepancy
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import DomainBatch
from .dan import DANAlignment


@MODELS.register_module()
class JANAlignment(DANAlignment):
    """Joint maximum mean discrepancy of features and class probabilities (JAN).

    See :func:`tl_plugin.functional.joint_maximum_mean_discrepancy`. Long et al., "Deep Transfer
    Learning with Joint Adaptation Networks", ICML 2017, arXiv 1605.06636. It couples all images of
    a batch and is computed on those of all processes together.

    Args:
        prediction_bandwidth: Of the probabilities' single kernel, in squared distance, which is at
            most 2. Defaults to 1.68, as in the authors' code.
        **kwargs: ``bandwidths`` (of the features' kernels), ``unbiased`` and all else:
            see :class:`DANAlignment`.

    Raises:
        ValueError: If a bandwidth isn't positive.
    """

    needs_logits = True

    @checked
    def __init__(self, prediction_bandwidth: float = 1.68, **kwargs) -> None:
        super().__init__(**kwargs)
        if prediction_bandwidth <= 0:
            raise ValueError(
                f'JANAlignment: prediction_bandwidth must be positive, got {prediction_bandwidth}'
            )
        self.prediction_bandwidth = prediction_bandwidth

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the joint discrepancy."""
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
