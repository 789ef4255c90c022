from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_images
from .kernels import gaussian_kernel
from .precision import full_precision

#: Bandwidths of the five kernels of the authors' code, on either side of the mean distance.
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@full_precision
def maximum_mean_discrepancy(
    source: Tensor,
    target: Tensor,
    bandwidths: Sequence[float] = BANDWIDTHS,
    unbiased: bool = True,
) -> Tensor:
    r"""Squared distance of two distributions' means in the space of a multi-kernel (MK-MMD).

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
    r"""Distance of two joint distributions of several layers' activations (JMMD).

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
