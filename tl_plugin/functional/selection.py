"""Choose images: strange ones, and those whose labels would teach a classifier most."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@full_precision
def free_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return :math:`-T \log \sum_k \exp(z_k / T)`, higher for images unlike those of training.

    Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, arXiv 2010.03759.

    Args:
        logits: (N, K).
        temperature: Defaults to 1, as in the paper.

    Returns:
        (N,).
    """
    return -temperature * (logits / temperature).logsumexp(1)


@full_precision
def badge_selection(
    probabilities: Tensor, features: Tensor, count: int, generator: torch.Generator | None = None
) -> Tensor:
    r"""Choose images to label that are uncertain and unlike each other (BADGE).

    Ash et al., "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds", ICLR 2020,
    arXiv 1906.03671: k-means++ on the gradients of the last layer as if the predicted class were
    right, :math:`(p - e_{\hat y}) \otimes h`: they are long where the prediction is unsure. As
    in the authors' code the first image is the one with the longest gradient; unlike there, no
    image is chosen for being far from all others by a gradient of zero. The gradients themselves,
    (N, K D), are never built.

    Args:
        probabilities: (N, K), rows add up to 1.
        features: What the last layer takes, (N, D).
        count: Images to choose; all where there are fewer.
        generator: Of the choice, on the CPU. Defaults to None, torch's own.

    Returns:
        Indices of different images, (min(count, N),), in the order of their choice.
    """
    count = min(count, len(probabilities))
    if count == 0:
        return torch.empty(0, dtype=torch.long)
    error = probabilities.clone()
    error[torch.arange(len(error)), probabilities.argmax(1)] -= 1
    lengths = error.square().sum(1) * features.square().sum(1)
    chosen = [int(lengths.argmax())]
    # As if an image without a gradient had been chosen: another one would teach as little.
    nearest = lengths.clone()
    while len(chosen) < count:
        last = chosen[-1]
        inner = (error @ error[last]) * (features @ features[last])
        nearest = torch.minimum(nearest, (lengths + lengths[last] - 2 * inner).clamp(min=0))
        nearest[last] = 0
        left = nearest.cpu().double()
        if left.sum() <= 0:  # all others are copies of chosen ones
            left = torch.ones_like(left)
            left[chosen] = 0
        chosen.append(int(torch.multinomial(left, 1, generator=generator)))
    return torch.tensor(chosen)
