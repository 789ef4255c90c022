"""Sharpness-aware steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ascent_steps(gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    r"""Return the steps to where a loss is highest nearby, to first order.

    Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization" (SAM),
    ICLR 2021, arXiv 2010.01412, equation 2: :math:`\rho \, g / \lVert g \rVert_2`, the norm over
    all tensors together. Where a gradient isn't finite, as half precision has it now and then,
    there is no step.

    Args:
        gradients: One tensor a weight.
        rho: Length of the step, not negative.

    Returns:
        A step for each weight, without gradient. There is no host sync.

    Example:
        >>> ascent_steps([torch.tensor([3.0]), torch.tensor([4.0])], 0.5)
        [tensor([0.3000]), tensor([0.4000])]
    """
    norms = torch.stack([gradient.detach().float().norm() for gradient in gradients])
    length = norms.norm()
    scale = torch.where(length.isfinite(), rho / length.clamp(min=1e-12), 0.0)
    return [gradient.detach().nan_to_num(0.0, 0.0, 0.0) * scale for gradient in gradients]
