"""Tell norm and stochastic-depth layers from all others, whichever library they come from."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: torch's, timm's, mmcv's, mmpretrain's or anybody's.

    Any other module counts by its class name, where it holds vectors alone: ``RmsNorm``,
    ``EvoNorm2dB0``, ``FrozenBatchNorm2d``, but not ``NormLinear``, whose weight is a matrix.

    Example:
        >>> is_norm(nn.BatchNorm2d(4)), is_norm(nn.Linear(4, 4))
        (True, False)
    """
    if isinstance(module, _NORMS):
        return True
    named = re.search('norm', type(module).__name__, re.IGNORECASE) is not None
    vectors = all(
        value.ndim <= 1 or max(value.shape) == value.numel() for value in module.parameters()
    )
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return named and vectors and bool(tensors)


def is_droppath(module: nn.Module) -> bool:
    """Return whether a module drops whole residual branches (DropPath, StochasticDepth).

    Example:
        >>> from mmcv.cnn.bricks import DropPath
        >>> is_droppath(DropPath()), is_droppath(nn.Dropout())
        (True, False)
    """
    name = type(module).__name__.lower().replace('_', '')
    return 'droppath' in name or 'stochasticdepth' in name


def norm_parameters(model: nn.Module) -> set[int]:
    """Collect the affine parameters of all norm layers.

    Args:
        model: Any model.

    Returns:
        The ``id`` of each.
    """
    return {
        id(value)
        for module in model.modules()
        if is_norm(module)
        for value in module.parameters(recurse=False)
    }
