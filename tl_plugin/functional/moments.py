"""Distances between distributions of features: kernels, MMD, CORAL, Fréchet distance, norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .precision import check_images, full_precision

# Smaller than any meaningful distance, large enough for division to stay finite.
_SMALLEST_SCALE = 1e-30


@full_precision
def squared_distances(points: Tensor) -> Tensor:
    """Return squared Euclidean distances between all pairs of rows, differentiable at zero.

    Args:
        points: (N, D).

    Returns:
        (N, N), symmetric, not negative.

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])
    """
    # No tensor of N * N * D numbers; centred first, since |a|^2 + |b|^2 - 2ab cancels far from 0.
    points = points - points.mean(dim=0, keepdim=True).detach()
    square = points.square().sum(dim=1)
    distances = square[:, None] + square[None, :] - 2 * points @ points.T
    diagonal = torch.eye(len(points), dtype=torch.bool, device=points.device)
    return distances.clamp(min=0).masked_fill(diagonal, 0)


@full_precision
def gaussian_kernel(
    points: Tensor, bandwidths: Sequence[float], scale: float | None = None
) -> Tensor:
    r"""Return the mean of Gaussian kernels between all pairs of rows.

    .. math::
        k(x, y) = \frac{1}{m} \sum_{u=1}^m \exp\left(-\frac{\|x - y\|^2}{b_u s}\right)

    Args:
        points: (N, D).
        bandwidths: The m factors b_u.
        scale: s; None takes the mean squared distance between two different rows, as a constant
            without gradient, so that the kernel doesn't depend on the unit of the features.
            Defaults to None.

    Returns:
        (N, N), in [0, 1], 1 on the diagonal.

    Raises:
        ValueError: If there is no bandwidth, or one of them isn't positive.
    """
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f'bandwidths must be positive, at least one of them, got {bandwidths}')
    distances = squared_distances(points)
    if scale is None:
        num_pairs = max(len(points) * (len(points) - 1), 1)
        scale = (distances.detach().sum() / num_pairs).clamp(min=_SMALLEST_SCALE)
    kernels = [torch.exp(distances / (-bandwidth * scale)) for bandwidth in bandwidths]
    return torch.stack(kernels).mean(dim=0)


#: Bandwidths of the five kernels of the authors' code, on either side of the mean distance.
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@full_precision
def maximum_mean_discrepancy(
    source: Tensor,
    target: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    unbiased: bool = True,
) -> Tensor:
    r"""Return the squared multi-kernel maximum mean discrepancy of two domains (MK-MMD).

    Gretton et al., "A Kernel Two-Sample Test", JMLR 2012; with several kernels in Long et al.,
    "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, arXiv 1502.02791:

    .. math::
        \frac{1}{N(N-1)} \sum_{i \ne j} k(s_i, s_j) + \frac{1}{M(M-1)} \sum_{i \ne j} k(t_i, t_j)
        - \frac{2}{NM} \sum_{i,j} k(s_i, t_j)

    with the kernel of :func:`gaussian_kernel`, all weights of its parts equal. ``unbiased=False``
    adds the pairs i = j and divides by N² and M². A domain's single image has no pair: its term is
    then 1, a constant, either way.

    Args:
        source: (N, D).
        target: (M, D).
        bandwidths: See :func:`gaussian_kernel`; of the mean squared distance in the joint batch.
            Defaults to a quarter to four times.
        unbiased: Leave out each image's pair with itself. Defaults to True.

    Returns:
        A 0-d tensor, near 0 for equal distributions; an unbiased estimate may be negative.

    Raises:
        ValueError: If a domain has no image or a bandwidth isn't positive.
    """
    return joint_maximum_mean_discrepancy([source], [target], [bandwidths], [None], unbiased)


@full_precision
def joint_maximum_mean_discrepancy(
    source: Sequence[Tensor],
    target: Sequence[Tensor],
    bandwidths: Sequence[Sequence[float]],
    scales: Sequence[float | None],
    unbiased: bool = True,
) -> Tensor:
    r"""Return the distance of two joint distributions of several layers' activations (JMMD).

    Long et al., "Deep Transfer Learning with Joint Adaptation Networks", ICML 2017, arXiv
    1605.06636: :func:`maximum_mean_discrepancy` with the product of the layers' kernels.

    Args:
        source: One (N, D_l) a layer.
        target: One (M, D_l) a layer.
        bandwidths: See :func:`gaussian_kernel`, one sequence a layer.
        scales: See :func:`gaussian_kernel`, one a layer.
        unbiased: Leave out each image's pair with itself. Defaults to True.

    Returns:
        A 0-d tensor.

    Raises:
        ValueError: If a domain has no image or a bandwidth isn't positive.
    """
    check_images('the maximum mean discrepancy', source=source[0], target=target[0])
    kernel: Tensor | float = 1.0
    for layer in zip(source, target, bandwidths, scales):
        source_layer, target_layer, layer_bandwidths, scale = layer
        points = torch.cat([source_layer, target_layer])
        kernel = kernel * gaussian_kernel(points, layer_bandwidths, scale)
    num_source = len(source[0])
    return (
        _within(kernel[:num_source, :num_source], unbiased)
        + _within(kernel[num_source:, num_source:], unbiased)
        - 2 * kernel[:num_source, num_source:].mean()
    )


def _within(kernel: Tensor, unbiased: bool) -> Tensor:
    size = len(kernel)
    if not unbiased or size == 1:
        return kernel.mean()
    return (kernel.sum() - kernel.trace()) / (size * (size - 1))


@full_precision
def weighted_mean_discrepancy(kernel: Tensor, source: Tensor, target: Tensor) -> Tensor:
    r"""Return the unbiased squared MMD of many weightings of images, from one kernel matrix.

    With weights that count how often a bootstrap sample holds each image, this is the unbiased
    estimate of :func:`maximum_mean_discrepancy` on that sample, but that pairs of an image with a
    copy of itself are left out too: they would make it too large. With 0 and 1 it is the estimate
    of a part of the images, as used in a permutation test. With a linear kernel, the products of
    the features, it is the squared distance of the two centres, without bias.

    Args:
        kernel: (T, T), between all images of both domains.
        source: (B, T), not negative: how much each image counts for the source.
        target: (B, T), likewise for the target; no image counts for both.

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> points = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 2.0], [4.0, 2.0]])
        >>> halves = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
        >>> weighted_mean_discrepancy(points @ points.T, halves, 1 - halves)
        tensor([15.])
    """
    return (
        _within_weighted(kernel, source)
        + _within_weighted(kernel, target)
        - 2 * ((source @ kernel) * target).sum(1) / (source.sum(1) * target.sum(1))
    )


def _within_weighted(kernel: Tensor, weights: Tensor) -> Tensor:
    squares = weights.square()
    pairs = ((weights @ kernel) * weights).sum(1) - squares @ kernel.diagonal()
    return pairs / (weights.sum(1).square() - squares.sum(1))


@full_precision
def covariance(features: Tensor) -> Tensor:
    """Return the unbiased covariance matrix of the columns.

    Args:
        features: (N, D), at least two rows.

    Returns:
        (D, D).
    """
    centred = features - features.mean(dim=0, keepdim=True)
    return centred.T @ centred / (len(features) - 1)


@full_precision
def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Return the distance between the domains' second-order statistics.

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


@full_precision
def frechet_distance(source: Tensor, target: Tensor) -> Tensor:
    r"""Return the Fréchet distance of two sets of features, each modelled as a Gaussian.

    Dowson and Landau, "The Fréchet distance between multivariate normal distributions", JMVA 1982;
    of a network's features in Heusel et al. (FID), NeurIPS 2017, arXiv 1706.08500:

    .. math::
        \|\mu_s - \mu_t\|^2 + \mathrm{tr}\left(C_s + C_t - 2 (C_s C_t)^{1/2}\right)

    Few images of many features overestimate it; compare equal numbers, or reduce the features.

    Args:
        source: (N, D), N at least 2.
        target: (M, D), M at least 2.

    Returns:
        A 0-d tensor, not negative, in double precision.

    Raises:
        ValueError: If a domain has fewer than two images.

    Example:
        >>> points = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(points, points + 3)
        tensor(9., dtype=torch.float64)
    """
    check_images('the Fréchet distance', minimum=2, source=source, target=target)
    source, target = source.double(), target.double()
    means = (source.mean(0) - target.mean(0)).square().sum()
    covariances = covariance(source), covariance(target)
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # Has the eigenvalues of the product of both, which itself is not symmetric.
    both = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    traces = sum(matrix.trace() for matrix in covariances)
    return (means + traces - 2 * both).clamp(min=0)


@full_precision
def feature_norms(features: Tensor) -> Tensor:
    """Return the Euclidean norm of each row, whose gradient is 0 where the norm is.

    Args:
        features: (N, D).

    Returns:
        (N,).
    """
    return torch.linalg.vector_norm(features, dim=1)


def hard_feature_norm_loss(norms: Tensor, radius: float) -> Tensor:
    r"""Pull the mean norm to a radius (HAFN): :math:`(\frac{1}{N} \sum_i \|x_i\| - R)^2`.

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
    r"""Make every norm a step larger than it is (SAFN).

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
