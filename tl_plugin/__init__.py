"""Transfer learning and domain adaptation for mmpretrain.

Importing the package checks and repairs the stack and registers every component, so that a config
needs only ``custom_imports = dict(imports=['tl_plugin'])``.
"""

# ruff: noqa: E402
from importlib import import_module

from tl_plugin.stack.check import repair_stack

# First: an unfit stack has to raise a clear error, not an obscure one of a library.
repair_stack()

import mmpretrain.registry
from mmengine.registry import Registry

from tl_plugin.version import __version__

__all__ = ['__version__']
_ROOMS = ('datasets', 'engine', 'evaluation', 'models')


def _register_rooms() -> None:
    """Make each room register its components when one of its registries is first used.

    A registry that mmpretrain fills from ``mmpretrain.models`` is filled from ``tl_plugin.models``
    too. Importing the rooms now would import mmpretrain's own, and with them all of torchvision:
    about a second that a program which only reads a config doesn't need.
    """
    for registry in vars(mmpretrain.registry).values():
        if isinstance(registry, Registry):
            for room in _ROOMS:
                if f'mmpretrain.{room}' in registry._locations:
                    _import_at_first_use(registry, f'tl_plugin.{room}')


def _import_at_first_use(registry: Registry, module: str) -> None:
    if registry._imported:
        import_module(module)
    elif module not in registry._locations:
        registry._locations.append(module)


_register_rooms()


def __getattr__(name):
    """Import a room when it is first used: ``tl_plugin.models.AdaptationClassifier``."""
    if name in _ROOMS:
        return import_module(f'tl_plugin.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
