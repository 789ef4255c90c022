"""Images with random patches masked, and what is learned from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import check_images


def mask_patches(images: Tensor, ratio: float = 0.7, patches: int = 4) -> Tensor:
    """Set random patches of each image to zero, which is the mean color of normalized images.

    Hoyer et al., "MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR 2023,
    arXiv 2212.01322, equation 5: each patch is masked by itself, with one probability.

    Args:
        images: (N, C, H, W), of any size; patches at the border may be a pixel smaller.
        ratio: Probability of a patch to be masked, in [0, 1]. Defaults to 0.7, as in the paper.
        patches: Along the shorter side; as many more along the longer one as make them square.
            Defaults to 4, the paper's 64 pixels of 224.

    Returns:
        A copy.

    Example:
        >>> mask_patches(torch.ones(1, 1, 4, 6), ratio=0.0).sum()
        tensor(24.)
    """
    height, width = images.shape[-2:]
    side = min(height, width) / min(patches, height, width)
    grid = (len(images), 1, round(height / side), round(width / side))
    kept = (torch.rand(grid, device=images.device) >= ratio).to(images.dtype)
    return images * F.interpolate(kept, size=(height, width), mode='nearest')


def masked_consistency_loss(logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the cross-entropy of masked images against a teacher's predictions on whole ones.

    Hoyer et al., "MIC", CVPR 2023, arXiv 2212.01322, equations 6 to 8:
    :math:`\frac{1}{N} \sum_i q_i \mathrm{CE}(f(\mathrm{mask}(x_i)), \arg\max_k p_{ik})`, with the
    teacher's probabilities p and :math:`q_i = \max_k p_{ik}`. The teacher gets no gradient.

    Args:
        logits: Scores of the masked images, (N, K).
        teacher_logits: The teacher's scores of the whole images, (N, K).

    Returns:
        The loss and the teacher's mean confidence, 0-d each.

    Raises:
        ValueError: If there is no image, or the two differ in shape.

    Example:
        >>> loss, confidence = masked_consistency_loss(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> loss, confidence  # ln 2 / 2
        (tensor(0.3466), tensor(0.5000))
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            'a masked consistency loss needs scores of the same target images, masked and whole, '
            f'got shapes {tuple(logits.shape)} and {tuple(teacher_logits.shape)}'
        )
    check_images('a masked consistency loss', target=logits)
    confidence, labels = teacher_logits.detach().float().softmax(1).max(1)
    losses = F.cross_entropy(logits.float(), labels, reduction='none')
    return (confidence * losses).mean(), confidence.mean()
