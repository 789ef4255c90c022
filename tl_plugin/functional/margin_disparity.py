from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .checks import check_images
from .precision import full_precision


@full_precision
def log_one_minus_softmax(logits: Tensor, classes: Tensor) -> Tensor:
    """Logarithm of the probability that an image is *not* of a class.

    Args:
        logits: (N, K), K at least 2.
        classes: Indices, (N,).

    Returns:
        (N,), finite however certain the class is.

    Example:
        >>> import torch
        >>> log_one_minus_softmax(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
        tensor([-1000.])
    """
    of_class = F.one_hot(classes, logits.shape[1]).bool()
    return logits.masked_fill(of_class, -float('inf')).logsumexp(dim=1) - logits.logsumexp(dim=1)


@full_precision
def margin_disparity_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_adversary: Tensor,
    target_adversary: Tensor,
    margin: float = 4.0,
) -> Tensor:
    r"""What an adversary minimises to agree with a classifier on the source and not on the target.

    Minus the margin disparity discrepancy of Zhang et al., "Bridging Theory and Algorithm for
    Domain Adaptation", ICML 2019, arXiv 1904.05801, equation 30. With the classifier's predicted
    classes :math:`h(x)` and the adversary's probabilities :math:`\sigma'`:

    .. math::
        -\gamma \, \mathbb E_S \log \sigma'_{h(x)}(x)
        - \mathbb E_T \log \left(1 - \sigma'_{h(x)}(x)\right)

    Args:
        source_logits: The classifier's, (N, K). Their largest entry alone is read.
        target_logits: The same, (M, K).
        source_adversary: The adversary's logits, (N, K).
        target_adversary: The same, (M, K).
        margin: :math:`\gamma`. Defaults to 4, as in the paper.

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If a domain has no image.
    """
    check_images('the margin disparity', source=source_logits, target=target_logits)
    agree = F.cross_entropy(source_adversary, source_logits.argmax(dim=1))
    disagree = -log_one_minus_softmax(target_adversary, target_logits.argmax(dim=1)).mean()
    return margin * agree + disagree
