"""Register our rooms as mmpretrain registers its own: at a registry's first look-up."""

from __future__ import annotations

from importlib import import_module

import mmpretrain.registry
from mmengine.registry import Registry

ROOMS = ('datasets', 'engine', 'evaluation', 'models')


def register_rooms() -> None:
    """Make each room register its components when one of its registries is first used.

    A registry that mmpretrain fills from ``mmpretrain.models`` is filled from ``tl_plugin.models``
    too. Importing the rooms now would import mmpretrain's own, and with them all of torchvision:
    about a second that a program which only reads a config doesn't need.
    """
    for registry in vars(mmpretrain.registry).values():
        if isinstance(registry, Registry):
            for room in ROOMS:
                if f'mmpretrain.{room}' in registry._locations:
                    _import_at_first_use(registry, f'tl_plugin.{room}')


def _import_at_first_use(registry: Registry, module: str) -> None:
    if registry._imported:
        import_module(module)
    elif module not in registry._locations:
        registry._locations.append(module)
