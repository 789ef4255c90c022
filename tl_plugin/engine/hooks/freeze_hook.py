"""Freeze a part of any model."""

from __future__ import annotations

from typing import Sequence

from mmpretrain.registry import HOOKS

from tl_plugin.stack.options import checked

from ..layers.selection import LayerSpec
from .frozen_part_hook import FrozenPartHook


@HOOKS.register_module()
class FreezeHook(FrozenPartHook):
    """Freeze a part of any model by depth, name or kind of module, under any launcher.

    Frozen weights don't change, cost no backward pass below the first trained layer and no
    traffic between ranks. By default all norm, dropout and stochastic-depth layers in the part
    are in eval mode too, so that the part's output is a fixed function of its input. The
    optimizer holds frozen parameters all the same, so that checkpoints fit whatever is frozen.
    A backbone's own ``frozen_stages`` is set aside.

    Args:
        layers: Depths to freeze: ``3``, ``':-1'`` (all but neck and head), ``'0:4'``, or a list
            of these.
        patterns: Regular expressions, searched for in parameter names.
        modules: Class names of modules: ``'BatchNorm2d'``. What any of the three selects is
            frozen.
        norm: ``'eval'`` keeps the running statistics of frozen norm layers, ``'train'`` lets them
            follow the data. Defaults to ``'eval'``.
        norm_affine: ``'trained'`` goes on training the affine weights of norm layers in the
            frozen part. Defaults to ``'frozen'``.
        dropout: ``'train'`` leaves dropout in the frozen part on. Defaults to ``'eval'``.
        droppath: ``'train'`` leaves stochastic depth there on. Defaults to ``'eval'``.
        check_ranks: Check after the first step, and before each later change of what trains,
            that all ranks hold equal weights. Defaults to False.

    Raises:
        ValueError: Nothing is selected (the nearest names are listed), all is, or two hooks
            disagree about a parameter.

    Example:
        >>> # in a config
        >>> custom_hooks = [dict(type='FreezeHook', layers=':-1')]
        >>> custom_hooks = [dict(type='FreezeHook', layers='0:4'),
        ...                 dict(type='FreezeHook', patterns=[r'cls_token'], dropout='train')]
    """

    @checked
    def __init__(
        self,
        layers: LayerSpec | None = None,
        patterns: str | Sequence[str] | None = None,
        modules: str | Sequence[str] | None = None,
        norm: str = 'eval',
        norm_affine: str = 'frozen',
        dropout: str = 'eval',
        droppath: str = 'eval',
        check_ranks: bool = False,
    ) -> None:
        super().__init__(
            layers, patterns, modules, norm, norm_affine, dropout, droppath, check_ranks
        )
