from __future__ import annotations

import torch
from torch import Tensor


class _GradientReversal(torch.autograd.Function):
    """Identity forward, ``-coefficient * gradient`` backward."""

    @staticmethod
    def forward(ctx, x: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(coefficient)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (coefficient,) = ctx.saved_tensors
        return -coefficient.to(grad.dtype) * grad, None


def gradient_reversal(x: Tensor, coefficient: float | Tensor = 1.0) -> Tensor:
    """Identity forward; multiplies the gradient by ``-coefficient`` on the way back.

    The layer that turns the minimisation of a domain classifier's loss into its maximisation by the
    feature extractor. Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016,
    arXiv 1505.07818.

    Args:
        x: Any tensor.
        coefficient: Non-negative factor of the reversed gradient, a float or a 0-d tensor. A tensor
            may change from step to step without recompiling a compiled model. Defaults to 1.

    Returns:
        A tensor equal to ``x``.

    Raises:
        ValueError: If ``coefficient`` is a negative float, which would undo the reversal.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> gradient_reversal(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    if not isinstance(coefficient, Tensor):
        if coefficient < 0:
            raise ValueError(f'the reversal coefficient must not be negative, got {coefficient}')
        coefficient = x.new_tensor(coefficient)
    return _GradientReversal.apply(x, coefficient)
