"""Schedules over the progress of training."""

from __future__ import annotations

import torch
from torch import Tensor


def sigmoid_ramp(progress: Tensor, gamma: float = 10.0) -> Tensor:
    r"""Rise from 0 at the start of training towards 1: :math:`2 / (1 + e^{-\gamma p}) - 1`.

    The schedule of the gradient-reversal weight in Ganin et al., JMLR 2016, arXiv 1505.07818,
    section 5.2.2, where it suppresses the noisy gradient of the domain classifier early in
    training.

    Args:
        progress: Fraction of training completed, in [0, 1], any shape.
        gamma: Steepness. The paper uses 10, the default.

    Returns:
        A tensor of the shape of ``progress``, in [0, 1).

    Example:
        >>> sigmoid_ramp(torch.tensor([0.0, 0.1, 1.0]))
        tensor([0.0000, 0.4621, 0.9999])
    """
    # tanh(x / 2) is the same function and exact near 0, where the quotient above loses digits.
    return torch.tanh(0.5 * gamma * progress)


def cosine_ramp(progress: Tensor) -> Tensor:
    """Rise from 0 to 1 over the first half of training and stays there.

    The weight of the unlabelled loss in AdaMatch, ICLR 2022, arXiv 2106.04732, equation 7:
    ``(1 - cos(min(pi, 2 pi p))) / 2``.

    Args:
        progress: Fraction of training completed, in [0, 1].

    Example:
        >>> cosine_ramp(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([0.0000, 0.5000, 1.0000, 1.0000])
    """
    return 0.5 - 0.5 * torch.cos((2 * torch.pi * progress).clamp(max=torch.pi))
