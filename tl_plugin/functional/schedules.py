from __future__ import annotations

import torch
from torch import Tensor


def sigmoid_ramp(progress: Tensor, gamma: float = 10.0) -> Tensor:
    r"""Rises from 0 at the start of training towards 1: :math:`2 / (1 + e^{-\gamma p}) - 1`.

    The schedule of the reversal coefficient in Ganin et al., JMLR 2016, arXiv 1505.07818, section
    5.2.2, where it keeps the noisy signal of a young domain classifier away from the features.

    Args:
        progress: The part of training that is done, in [0, 1], any shape.
        gamma: Steepness. The paper uses 10, the default.

    Returns:
        A tensor of the shape of ``progress``, in [0, 1).

    Example:
        >>> sigmoid_ramp(torch.tensor([0.0, 0.1, 1.0]))
        tensor([0.0000, 0.4621, 0.9999])
    """
    # tanh(x / 2) is the same function and exact near 0, where the quotient above loses digits.
    return torch.tanh(0.5 * gamma * progress)
