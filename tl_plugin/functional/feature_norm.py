"""Losses that make features larger: Xu et al., "Larger Norm More Transferable", ICCV 2019."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@full_precision
def feature_norms(features: Tensor) -> Tensor:
    """Euclidean norm of each row, whose gradient is 0 where the norm is.

    Args:
        features: (N, D).

    Returns:
        (N,).
    """
    return torch.linalg.vector_norm(features, dim=1)


def hard_feature_norm_loss(norms: Tensor, radius: float) -> Tensor:
    r"""Pulls the mean norm to a radius (HAFN): :math:`(\frac{1}{N} \sum_i \|x_i\| - R)^2`.

    Xu et al., "Larger Norm More Transferable", ICCV 2019, arXiv 1811.07456, one domain's term.

    Args:
        norms: Of one domain's features, (N,).
        radius: R.

    Returns:
        A 0-d tensor.

    Example:
        >>> hard_feature_norm_loss(torch.tensor([20.0, 24.0]), radius=25.0)
        tensor(9.)
    """
    return (norms.mean() - radius).square()


def stepwise_feature_norm_loss(norms: Tensor, step: float) -> Tensor:
    r"""Makes every norm a step larger than it is (SAFN).

    :math:`\frac{1}{N} \sum_i (\bar r_i + \Delta r - \|x_i\|)^2`, where :math:`\bar r_i` is the
    present norm as a constant: the value is always :math:`\Delta r^2`, the gradient is what counts.
    Xu et al., "Larger Norm More Transferable", ICCV 2019, arXiv 1811.07456, one domain's term.

    Args:
        norms: Of one domain's features, (N,).
        step: :math:`\Delta r`.

    Returns:
        A 0-d tensor.
    """
    return (norms.detach() + step - norms).square().mean()
