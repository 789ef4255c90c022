"""Linear centred kernel alignment (CKA), without the bias of small batches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .precision import full_precision

#: The unbiased estimator divides by n - 3.
MIN_IMAGES = 4


@full_precision
def linear_gram(features: Tensor) -> Tensor:
    """Return the inner products of all pairs of images' features, which are centred first.

    Args:
        features: (N, ...), flattened to one vector an image.

    Returns:
        (N, N). It is all that CKA needs, however large the features are.
    """
    rows = features.flatten(1)
    # Centring changes nothing in the unbiased estimate and saves the digits that a large common
    # mean would take.
    rows = rows - rows.mean(dim=0)
    return rows @ rows.T


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the unbiased estimator of the Hilbert-Schmidt independence criterion, HSIC\ :sub:`1`.

    Song et al., "Feature Selection via Dependence Maximization", JMLR 2012. With the diagonals of
    both Gram matrices set to zero,

    .. math::
        \frac{1}{n (n - 3)} \left[ tr(K L) + \frac{1^T K 1 \cdot 1^T L 1}{(n - 1)(n - 2)}
        - \frac{2}{n - 2} 1^T K L 1 \right]

    Args:
        first: Gram matrix of n images, (n, n), symmetric.
        second: Another one of the same images.

    Returns:
        A 0-d tensor in double precision; of independent features it may be negative.

    Raises:
        ValueError: If there are fewer than four images, or the shapes differ.
    """
    count = len(first)
    if first.shape != second.shape or first.shape != (count, count):
        raise ValueError(
            'HSIC compares two Gram matrices of the same images, got shapes '
            f'{tuple(first.shape)} and {tuple(second.shape)}'
        )
    if count < MIN_IMAGES:
        raise ValueError(f'unbiased HSIC needs at least {MIN_IMAGES} images, got {count}')
    first, second = (gram.double().clone().fill_diagonal_(0) for gram in (first, second))
    one, other = first.sum(0), second.sum(0)
    total = (first * second).sum() - 2 / (count - 2) * one @ other
    total = total + one.sum() * other.sum() / ((count - 1) * (count - 2))
    return total / (count * (count - 3))


def minibatch_cka(source: Sequence[Tensor], adapted: Sequence[Tensor]) -> float:
    r"""Return the debiased linear CKA of two networks, over batches of any size.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
    1905.00414, with the unbiased HSIC of Song et al. summed over batches before the division, as in
    Nguyen et al., "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, arXiv 2010.15327:
    the estimate doesn't depend on the size of the batches, only its variance does.

    Args:
        source: Gram matrices of the one network, one a batch, see :func:`linear_gram`.
        adapted: Those of the other, of the same batches in the same order.

    Returns:
        1 where the features are equal up to rotation and scale, about 0 where they are unrelated
        (it may be slightly negative); nan where one network maps all images to the same features.

    Raises:
        ValueError: If the batches don't fit, or there is none of four images or more.

    Example:
        >>> import torch
        >>> features = torch.randn(8, 5)
        >>> round(minibatch_cka([linear_gram(features)], [linear_gram(-3 * features)]), 6)
        1.0
    """
    if len(source) != len(adapted):
        raise ValueError(f'expected as many batches of both, got {len(source)} and {len(adapted)}')
    pairs = [(one, two) for one, two in zip(source, adapted) if len(one) >= MIN_IMAGES]
    if not pairs:
        raise ValueError(f'CKA needs a batch of at least {MIN_IMAGES} images')
    both = sum(unbiased_hsic(one, two) for one, two in pairs)
    own = sum(unbiased_hsic(one, one) for one, _ in pairs)
    other = sum(unbiased_hsic(two, two) for _, two in pairs)
    if own <= 0 or other <= 0:
        return float('nan')
    return float(both / (own * other).sqrt())
