"""What test-time adaptation computes from predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .precision import full_precision
from .predictions import prediction_entropy


@full_precision
def reliable_entropy(logits: Tensor, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the entropy of the images whose prediction is certain enough to learn from.

    Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World" (SAR), ICLR 2023, arXiv
    2302.12400: images of high entropy give large, noisy gradients. A margin of 1 keeps all, as
    Tent does (Wang et al., ICLR 2021, arXiv 2006.10726).

    Args:
        logits: (N, K).
        margin: Share of the largest entropy, ln K, that an image must stay below. Defaults to 1.

    Returns:
        The entropies, (N,), in nats, with gradient; and which images are kept, (N,) bool.

    Example:
        >>> _, kept = reliable_entropy(torch.tensor([[4.0, 0.0], [0.1, 0.0]]), 0.4)
        >>> kept
        tensor([ True, False])
    """
    entropy = prediction_entropy(logits)
    least = margin * math.log(logits.shape[1])
    return entropy, entropy.detach() < least if margin < 1 else torch.ones_like(entropy).bool()


def effective_classes(counts: Tensor) -> Tensor:
    """Return the number of classes that counts are spread over: the exponential of their entropy.

    Args:
        counts: Images of each class, (K,), not negative.

    Returns:
        0-d, from 1 to K; 1 where there is no image.

    Example:
        >>> effective_classes(torch.tensor([5.0, 5.0, 0.0])), effective_classes(torch.zeros(3))
        (tensor(2.), tensor(1.))
    """
    shares = counts / counts.sum().clamp(min=1e-12)
    return torch.special.entr(shares).sum().exp()


def alike_neighbours(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many more neighbours in a row have one class than in a random order of the row.

    The runs test for several classes: a run ends where the class changes (Wald and Wolfowitz, "On a
    Test Whether Two Samples Are from the Same Population", 1940; Mood, "The Distribution Theory of
    Runs", 1940, both in the Annals of Mathematical Statistics). The number divided by the square
    root of its variance is about a standard normal deviate if the order is random.

    Args:
        classes: The class of each in the row, (N,), integers from 0.

    Returns:
        The number of neighbours alike minus the expected one, and its variance, both 0-d.

    Example:
        >>> found, variance = alike_neighbours(torch.arange(40) // 10)
        >>> float(found), bool(found > 5 * variance.sqrt())
        (27.0, True)
    """
    count, sizes = len(classes), classes.bincount().float()
    if count < 2:
        return sizes.new_zeros(()), sizes.new_zeros(())
    squares, cubes = sizes.pow(2).sum(), sizes.pow(3).sum()
    alike = (classes[1:] == classes[:-1]).sum()
    variance = squares * (squares + count * (count + 1)) - 2 * count * cubes - count**3
    return alike - (squares / count - 1), (variance / (count**2 * (count - 1))).clamp(min=0)
