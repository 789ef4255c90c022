from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_images


def pseudo_label_loss(
    weak_logits: Tensor, strong_logits: Tensor, threshold: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a strong view against the confident predictions on the weak one.

    Sohn et al., "FixMatch", NeurIPS 2020, arXiv 2001.07685, equation 4. The predictions on the
    weak view carry no gradient; images below the threshold count as zero in the mean.

    Args:
        weak_logits: Scores of the weakly augmented images, (N, K).
        strong_logits: Scores of the strongly augmented ones, (N, K).
        threshold: The least probability of the predicted class that counts, in [0, 1].

    Returns:
        The loss and which images counted, (), (N,) bool.

    Raises:
        ValueError: If there is no image, or the two views differ in shape.

    Example:
        >>> weak, strong = torch.tensor([[9.0, 0.0], [0.1, 0.0]]), torch.zeros(2, 2)
        >>> loss, confident = pseudo_label_loss(weak, strong, 0.95)
        >>> confident
        tensor([ True, False])
    """
    if weak_logits.shape != strong_logits.shape:
        raise ValueError(
            'a pseudo-label loss needs both views of the same target images, got scores of shape '
            f'{tuple(weak_logits.shape)} and {tuple(strong_logits.shape)}'
        )
    check_images('a pseudo-label loss', target=weak_logits)
    confidence, label = weak_logits.detach().float().softmax(1).max(1)
    confident = confidence >= threshold
    losses = F.cross_entropy(strong_logits.float(), label, reduction='none')
    return (losses * confident).mean(), confident


def relative_threshold(source_logits: Tensor, threshold: float) -> Tensor:
    """A threshold relative to how confident the model is on the source.

    Berthelot et al., "AdaMatch", ICLR 2022, arXiv 2106.04732, equation 5: ``threshold`` times the
    mean probability of the predicted class on weakly augmented source images.

    Args:
        source_logits: Scores of source images, (N, K).
        threshold: Factor, in [0, 1].

    Returns:
        A 0-d tensor without gradient.

    Raises:
        ValueError: If there is no image.
    """
    check_images('a relative threshold', source=source_logits)
    return threshold * source_logits.detach().float().softmax(1).max(1).values.mean()


def cosine_ramp(progress: Tensor) -> Tensor:
    """Rises from 0 to 1 over the first half of training and stays there.

    The weight of the unlabelled loss in AdaMatch, ICLR 2022, arXiv 2106.04732, equation 7:
    ``(1 - cos(min(pi, 2 pi p))) / 2``.

    Args:
        progress: The part of training that is done, in [0, 1].

    Example:
        >>> cosine_ramp(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    return 0.5 - 0.5 * torch.cos((2 * torch.pi * progress).clamp(max=torch.pi))
