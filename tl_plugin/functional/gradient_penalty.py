from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .precision import full_precision


@torch.compiler.disable  # it can't differentiate a gradient: this part of a step stays as written
def input_gradient_penalty(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    r"""Mean squared norm of a network's gradient by its inputs, :math:`E \|\nabla_x D(x)\|^2`.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018, arXiv
    1801.04406 (R1 and R2): an adversary that is flat where the data are can't run away. Only the
    network receives a gradient, not the inputs.

    Args:
        network: (N, D) to (N, 1), each row by itself, twice differentiable in its weights.
        inputs: (N, D).

    Returns:
        A 0-d tensor.

    Example:
        >>> linear = torch.nn.Linear(2, 1)
        >>> penalty = input_gradient_penalty(linear, torch.randn(5, 2))
        >>> bool(torch.isclose(penalty, linear.weight.square().sum()))
        True
    """

    @full_precision
    def penalty(rows: Tensor) -> Tensor:
        # A loss may also be computed for the record, without gradients: this one needs its own.
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(network(rows).sum(), rows, create_graph=True)
        return gradient.flatten(start_dim=1).square().sum(dim=1).mean()

    return penalty(inputs)
