"""Which modules put out the same for the same input, in training too."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..layers.module_kinds import is_droppath


def moves(module: nn.Module) -> bool:
    """Whether a module, by itself and in its present mode, is no fixed function of its input.

    >>> moves(nn.BatchNorm2d(4)), moves(nn.BatchNorm2d(4).eval()), moves(nn.LayerNorm(4))
    (True, False, False)
    """
    if not module.training:
        return False
    if isinstance(module, _NormBase):
        return True
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) or is_droppath(module)
    return dropout and bool(getattr(module, 'p', getattr(module, 'drop_prob', 1)))


def fixed_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules in which nothing trains and nothing moves, themselves and all inside.

    Args:
        model: A model whose modules are in the modes in which it is trained.

    Yields:
        Name and module.
    """
    for name, module in model.named_modules():
        trains = any(value.requires_grad for value in module.parameters())
        if name and not trains and not any(moves(part) for part in module.modules()):
            yield name, module
