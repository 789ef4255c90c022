from __future__ import annotations

from collections.abc import Sequence

from mmpretrain.models.losses.utils import weight_reduce_loss
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from tl_plugin.functional import (
    generalized_cross_entropy,
    soft_targets,
    symmetric_cross_entropy,
)
from tl_plugin.stack.options import checked

KINDS = ('generalized', 'symmetric')
REDUCTIONS = ('none', 'mean', 'sum')


@MODELS.register_module()
class RobustLoss(nn.Module):
    """Classification loss that learns less from labels which the model finds improbable.

    Takes the place of mmpretrain's ``CrossEntropyLoss`` in a head that gives an image one class.
    Labels are class numbers, or the soft ones of mixup; an image without a label (-1) counts as
    zero.

    Args:
        kind: 'generalized' (Zhang and Sabuncu, NeurIPS 2018, arXiv 1805.07836, see
            :func:`tl_plugin.functional.generalized_cross_entropy`) or 'symmetric' (Wang et al.,
            ICCV 2019, arXiv 1908.06322, see
            :func:`tl_plugin.functional.symmetric_cross_entropy`). Defaults to 'generalized'.
        q: Of the generalized cross-entropy, in (0, 1]: 1 resists most. Defaults to 0.7.
        alpha: Weight of the cross-entropy in the symmetric one. Defaults to 0.1.
        beta: Weight of the reverse cross-entropy in it. Defaults to 1.
        log_zero: What stands for the logarithm of 0 in it, negative. Defaults to -4.
        label_smooth_val: Share of a label that is spread evenly over the classes, in [0, 1).
            Defaults to 0.
        class_weight: One factor per class. Defaults to None, equal ones.
        reduction: 'mean', 'sum' or 'none'. Defaults to 'mean'.
        loss_weight: Factor of the loss. Defaults to 1.

    Raises:
        ValueError: If an argument is out of its range.
    """

    @checked
    def __init__(
        self,
        kind: str = 'generalized',
        q: float = 0.7,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = -4.0,
        label_smooth_val: float = 0.0,
        class_weight: Sequence[float] | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        wrong = {
            f'kind must be one of {", ".join(KINDS)}, got {kind!r}': kind not in KINDS,
            f'q must be in (0, 1], got {q}': not 0 < q <= 1,
            f'alpha must be >= 0, got {alpha}': alpha < 0,
            f'beta must be >= 0, got {beta}': beta < 0,
            f'log_zero must be < 0, got {log_zero}': log_zero >= 0,
            f'label_smooth_val must be in [0, 1), got {label_smooth_val}': not (
                0 <= label_smooth_val < 1
            ),
            f'reduction must be one of {", ".join(REDUCTIONS)}, got {reduction!r}': (
                reduction not in REDUCTIONS
            ),
            f'loss_weight must be >= 0, got {loss_weight}': loss_weight < 0,
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f'RobustLoss: {message}')
        self.kind = kind
        if kind == 'generalized':
            self.loss, self.options = generalized_cross_entropy, dict(q=q)
        else:
            self.loss = symmetric_cross_entropy
            self.options = dict(alpha=alpha, beta=beta, log_zero=log_zero)
        self.label_smooth_val = label_smooth_val
        self.class_weight = class_weight
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return the loss, as mmpretrain's losses do.

        Args:
            cls_score: Logits, (N, K).
            label: (N,), or soft, (N, K).
            weight: Factor of each image, (N,). Defaults to None.
            avg_factor: What the sum is divided by in place of N. Defaults to None.
            reduction_override: In place of ``reduction``. Defaults to None.

        Raises:
            ValueError: If there are not as many class weights as classes.
        """
        targets = soft_targets(label, cls_score.shape[1], self.label_smooth_val)
        losses = self.loss(cls_score, targets, **self.options)
        if self.class_weight is not None:
            if len(self.class_weight) != cls_score.shape[1]:
                raise ValueError(
                    f'RobustLoss: class_weight must hold one factor per class, '
                    f'{cls_score.shape[1]}, got {len(self.class_weight)}'
                )
            losses = losses * (targets @ targets.new_tensor(self.class_weight))
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(losses, weight, reduction, avg_factor)
