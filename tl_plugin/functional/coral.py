from __future__ import annotations

from torch import Tensor

from .checks import check_images
from .precision import full_precision


@full_precision
def covariance(features: Tensor) -> Tensor:
    """Unbiased covariance matrix of the columns.

    Args:
        features: (N, D), at least two rows.

    Returns:
        (D, D).
    """
    centred = features - features.mean(dim=0, keepdim=True)
    return centred.T @ centred / (len(features) - 1)


@full_precision
def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Distance between the domains' second-order statistics.

    Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
    workshops, arXiv 1607.01719, equation 1:

    .. math::
        \frac{1}{4 D^2} \| C_S - C_T \|_F^2

    where :math:`C_S` and :math:`C_T` are the covariance matrices of the features. The means don't
    enter.

    Args:
        source: (N, D).
        target: (M, D).

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If a domain has fewer than two images: a single one has no covariance.
    """
    check_images('CORAL', minimum=2, source=source, target=target)
    difference = covariance(source) - covariance(target)
    return difference.square().sum() / (4 * source.shape[1] ** 2)
