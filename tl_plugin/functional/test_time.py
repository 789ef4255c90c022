"""What test-time adaptation computes from predictions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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


@full_precision
def order_dependence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much more alike the predictions of near images are than in a random order.

    Mantel's test ("The Detection of Disease Clustering and a Generalized Regression Approach",
    Cancer Research 27, 1967): the cosine similarities of predictions, summed over pairs that are at
    most a fifth of the batch apart, with the mean and the variance of that sum over all orders.
    Predictions are logits without the batch's mean, so that images of one class are alike where
    the model takes them for different classes, too. The number divided by the square root of its
    variance is about a standard normal deviate if the order is random.

    Args:
        logits: Of a batch in the order in which it came, (N, K).

    Returns:
        The sum minus its mean, and its variance, both 0-d; 0 for fewer than 5 images.

    Example:
        >>> logits = 5 * torch.eye(4)[torch.arange(40) // 10]
        >>> found, variance = order_dependence(logits)
        >>> bool(found > 5 * variance.sqrt())
        True
    """
    count = len(logits)
    if count < 5:
        return logits.new_zeros(()), logits.new_zeros(())
    vectors = logits.detach().cpu().double()  # differences of large sums; not every device has it
    vectors = vectors - vectors.mean(1, keepdim=True)
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    alike = (vectors @ vectors.T).fill_diagonal_(0)
    at = torch.arange(count)
    near = ((at[:, None] - at).abs() <= count // 5).to(alike).fill_diagonal_(0)
    # Sums, sums of squares, and squares of the sums of rows, for matrices that are symmetric.
    (s0, s1, s2), (t0, t1, t2) = (
        (m.sum(), 2 * m.square().sum(), 4 * m.sum(0).square().sum()) for m in (near, alike)
    )
    pairs = count * (count - 1)
    triples = pairs * (count - 2)
    mean = s0 * t0 / pairs
    square = s1 * t1 / (2 * pairs)
    square += (s2 - 2 * s1) * (t2 - 2 * t1) / (4 * triples)
    square += (s0**2 + s1 - s2) * (t0**2 + t1 - t2) / (triples * (count - 3))
    found = (near * alike).sum() - mean, (square - mean**2).clamp(min=0)
    return tuple(value.to(logits) for value in found)
