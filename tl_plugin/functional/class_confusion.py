from __future__ import annotations

from torch import Tensor

from .checks import check_images
from .entropy import prediction_entropy
from .precision import full_precision


@full_precision
def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    r"""How much the predictions of a batch confuse classes (MCC).

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020, arXiv
    1912.03699. With probabilities :math:`y_{ij}` at a temperature, the weights
    :math:`w_i = N (1 + e^{-H(y_i)}) / \sum_{i'} (1 + e^{-H(y_{i'})})`, which trust certain
    predictions more and pass no gradient, and K classes:

    .. math::
        C_{jk} = \sum_i w_i y_{ij} y_{ik}, \qquad
        \tilde C_{jk} = C_{jk} / \sum_{k'} C_{jk'}, \qquad
        L = \frac{1}{K} \sum_j \sum_{k \ne j} \tilde C_{jk}

    Args:
        logits: Of target images, (N, K).
        temperature: Divides the logits. Defaults to 2.5, as in the paper.

    Returns:
        A 0-d tensor in [0, 1 - 1 / K].

    Raises:
        ValueError: If there is no image, or the temperature isn't positive.
    """
    check_images('the class confusion', target=logits)
    if temperature <= 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')
    logits = logits / temperature
    log_probabilities = logits.log_softmax(dim=1)
    log_weights = (1 + (-prediction_entropy(logits.detach())).exp()).log()
    # An image's probabilities add up to one, so C's row j adds up to sum_i w_i y_ij, and dividing
    # by it is a softmax over the images. It can't divide by the zero of a class that no image
    # has, and the rows of the quotient add up to one: what is off the diagonal is one minus it.
    shares = (log_weights[:, None] + log_probabilities).softmax(dim=0)
    return 1 - (shares * log_probabilities.exp()).sum() / logits.shape[1]
