from __future__ import annotations

from typing import Any

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import (
    balancing_weights,
    cosine_ramp,
    log_class_ratio,
    pseudo_label_loss,
    relative_threshold,
)
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class PseudoLabelAlignment(Alignment):
    """Self-training: a strong view of a target image learns the confident prediction on a weak one.

    Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685; the relative threshold, the ramp,
    distribution alignment, soft labels and logit interpolation are those of Berthelot et al.,
    "AdaMatch", ICLR 2022, arXiv 2106.04732.

    Needs ``train_cfg.strong_view``. Logs ``confident``, the share of target images used.

    Args:
        threshold: Confidence from which images are used, in [0, 1]. Defaults to 0.9.
        relative: Whether the threshold is relative to the confidence on the source, which keeps
            using images when the model is uncertain everywhere; without source images it must
            be False. Defaults to True.
        ramp: Whether the loss weight rises over the first half of training. Defaults to True.
        teacher_momentum: Momentum of a mean teacher, in [0, 1), whose predictions are then the
            labels (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780, see
            :class:`Teacher`). Defaults to None, the model's own.
        distribution_alignment: Whether the target's predictions are brought to the classes'
            frequencies among those on the source, batch by batch. Not where the target's classes
            are known to be of other frequencies. Defaults to False.
        soft_labels: Whether the labels are the probabilities. Defaults to False, the class.
        logit_interpolation: Whether the source learns scores at random between those that batch
            norms of the joint batch give and those of the source's own, which costs a further pass
            over the source images. Nothing where there are no batch norms. Defaults to False.
        class_balanced: Whether confident images are weighted so that each predicted class counts
            alike. Defaults to False.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If the threshold or the momentum is out of range.
    """

    needs_logits = True
    needs_strong_view = True

    @checked
    def __init__(
        self,
        threshold: float = 0.9,
        relative: bool = True,
        ramp: bool = True,
        teacher_momentum: float | None = None,
        distribution_alignment: bool = False,
        soft_labels: bool = False,
        logit_interpolation: bool = False,
        class_balanced: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= threshold <= 1:
            raise ValueError(f'PseudoLabelAlignment: threshold must be in [0, 1], got {threshold}')
        if teacher_momentum is not None and not 0 <= teacher_momentum < 1:
            raise ValueError(
                'PseudoLabelAlignment: teacher_momentum must be in [0, 1) or None, got '
                f'{teacher_momentum}'
            )
        self.threshold = threshold
        self.relative = relative
        self.distribution_alignment = distribution_alignment
        self.soft_labels = soft_labels
        self.interpolates_logits = logit_interpolation
        self.class_balanced = class_balanced
        self.needs_source = relative or distribution_alignment or logit_interpolation
        self.ramp = ramp
        self.teacher_momentum = teacher_momentum

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the loss on the strong views of the target."""
        if target.strong_logits is None:
            raise ValueError(
                'PseudoLabelAlignment needs a strongly augmented view of each target image: set '
                "train_cfg.strong_view = [dict(type='RandAugment', ...)]"
            )
        seen = source.interpolated_logits
        seen = source.logits if seen is None else seen
        weak = target.logits if self.teacher_momentum is None else target.teacher_logits
        weak = weak.detach()
        threshold, weights = self.threshold, None
        if self.relative:
            threshold = relative_threshold(gather_ranks(seen.detach()), self.threshold)
        if self.distribution_alignment:
            weak = weak + log_class_ratio(gather_ranks(seen.detach()), gather_ranks(weak))
        if self.class_balanced:
            weights = balancing_weights(gather_ranks(weak), threshold)
        loss, confident = pseudo_label_loss(
            weak, target.strong_logits, threshold, self.soft_labels, weights
        )
        self.log(confident=confident.float().mean())
        return cosine_ramp(self.progress) * loss if self.ramp else loss
