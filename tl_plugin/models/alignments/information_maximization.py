from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import entropy_loss, marginal_entropy
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class InformationMaximization(Alignment):
    """Target predictions that are certain one by one and diverse all together.

    The mean entropy of the predictions minus the entropy of the mean prediction, that is, minus the
    mutual information of images and predicted classes. Liang et al., "Do We Really Need to Access
    the Source Data? Source Hypothesis Transfer for Unsupervised Domain Adaptation" (SHOT), ICML
    2020, arXiv 2002.08546, equations 3 and 4. It uses the target alone, couples all images of a
    batch and is computed on those of all processes together.

    Logs ``entropy`` (of each prediction, mean) and ``diversity`` (entropy of the mean prediction).

    Args:
        diversity_weight: Factor of the second part, which keeps the predictions from collapsing to
            one class; less than 1 where the target's classes aren't equally frequent. Not negative.
            Defaults to 1, as in the paper.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If ``diversity_weight`` is negative.
    """

    needs_logits = True
    needs_source = False

    @checked
    def __init__(self, diversity_weight: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        if diversity_weight < 0:
            raise ValueError(
                f'InformationMaximization: diversity_weight must be >= 0, got {diversity_weight}'
            )
        self.diversity_weight = diversity_weight

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return minus the mutual information of the target's images and predictions, in nats."""
        logits = gather_ranks(target.logits)
        entropy, diversity = entropy_loss(logits), marginal_entropy(logits)
        self.log(entropy=entropy, diversity=diversity)
        return entropy - self.diversity_weight * diversity
