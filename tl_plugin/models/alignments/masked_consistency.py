from __future__ import annotations

from typing import Any

from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import check_images, mask_patches, masked_consistency_loss
from tl_plugin.stack.options import checked

from .base import Alignment, DomainBatch


@MODELS.register_module()
class MaskedConsistency(Alignment):
    """Masked image consistency: the rest of a masked image tells what a teacher sees in the whole.

    Hoyer et al., "MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR 2023,
    arXiv 2212.01322, see :func:`tl_plugin.functional.mask_patches` and
    :func:`tl_plugin.functional.masked_consistency_loss`. It uses the target alone. The masked
    images have a forward of their own, which leaves the running statistics of batch norms as they
    are: prediction sees whole images. Logs ``confidence``, the teacher's.

    Args:
        ratio: Probability of a patch to be masked, in [0, 1). Defaults to 0.7, as in the paper.
        patches: Number of patches along the shorter side of an image. Defaults to 4, the paper's 64
            pixels of 224.
        teacher_momentum: Momentum of the mean teacher, in [0, 1), see :class:`Teacher`. Defaults to
            None: that of another alignment, or else 0.9, as in the paper.
        **kwargs: ``in_features``, ``num_classes``, ``loss_weight``, ``gamma``,
            ``init_cfg``: see :class:`Alignment`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    needs_logits = True
    needs_source = False
    usual_teacher_momentum = 0.9

    @checked
    def __init__(
        self,
        ratio: float = 0.7,
        patches: int = 4,
        teacher_momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= ratio < 1:
            raise ValueError(f'MaskedConsistency: ratio must be in [0, 1), got {ratio}')
        if patches < 1:
            raise ValueError(f'MaskedConsistency: patches must be at least 1, got {patches}')
        if teacher_momentum is not None and not 0 <= teacher_momentum < 1:
            raise ValueError(
                'MaskedConsistency: teacher_momentum must be in [0, 1) or None, got '
                f'{teacher_momentum}'
            )
        self.ratio = ratio
        self.patches = patches
        self.teacher_momentum = teacher_momentum

    def mask(self, images: Tensor) -> Tensor:
        """Return a masked copy of target images, whose scores are ``DomainBatch.masked_logits``."""
        return mask_patches(images, self.ratio, self.patches)

    def forward(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """Return the loss on the masked images of the target."""
        check_images('a masked consistency loss', target=target.logits)
        loss, confidence = masked_consistency_loss(target.masked_logits, target.teacher_logits)
        self.log(confidence=confidence)
        return loss
