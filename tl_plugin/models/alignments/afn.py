from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import (
    check_images,
    feature_norms,
    hard_feature_norm_loss,
    stepwise_feature_norm_loss,
)
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class AFNAlignment(Alignment):
    """Larger feature norms in both domains (AFN), stepwise or towards a radius.

    Features with small norms transfer badly: the norms of both domains are increased.
    Xu et al., "Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised
    Domain Adaptation", ICCV 2019, arXiv 1811.07456. As in the authors' code the two domains' terms,
    each a mean over its images, add up.

    Logs ``source_norm`` and ``target_norm``, the mean norms of the features.

    Args:
        step: Increase of each norm per iteration (SAFN). Defaults to 1.
        radius: Pull the mean norm to this one instead (HAFN); the paper's is 25. None for steps.
            Defaults to None.
        loss_weight: Factor of the loss. Defaults to 0.05, as in the paper.
        **kwargs: ``in_features``, ``num_classes``, ``gamma``, ``init_cfg``: see
            :class:`Alignment`.

    Raises:
        ValueError: If ``step`` or ``radius`` isn't positive.
    """

    @checked
    def __init__(
        self,
        step: float = 1.0,
        radius: float | None = None,
        loss_weight: float = 0.05,
        **kwargs,
    ) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        if step <= 0:
            raise ValueError(f'AFNAlignment: step must be > 0, got {step}')
        if radius is not None and radius <= 0:
            raise ValueError(f'AFNAlignment: radius must be > 0 or None, got {radius}')
        self.step = step
        self.radius = radius

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the sum of both domains' terms."""
        check_images('the feature norm', source=source.features, target=target.features)
        norms = {
            'source': feature_norms(source.features),
            'target': feature_norms(target.features),
        }
        self.log(**{f'{domain}_norm': values.mean() for domain, values in norms.items()})
        return sum(self._term(values) for values in norms.values())

    def _term(self, norms: Tensor) -> Tensor:
        if self.radius is None:
            return stepwise_feature_norm_loss(norms, self.step)
        # The square of a mean isn't a mean over images: it needs those of all processes.
        return hard_feature_norm_loss(gather_ranks(norms), self.radius)
