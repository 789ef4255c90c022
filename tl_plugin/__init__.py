"""Transfer learning and domain adaptation for mmpretrain.

Importing the package checks and repairs the stack and registers every component, so that a config
needs only ``custom_imports = dict(imports=['tl_plugin'])``.
"""

# ruff: noqa: E402
from importlib import import_module

from tl_plugin.stack.check import repair_stack

# First: an unfit stack has to raise a clear error, not an obscure one of a library.
repair_stack()

from tl_plugin.stack.registration import ROOMS, register_rooms
from tl_plugin.version import __version__

register_rooms()

__all__ = ['__version__']


def __getattr__(name):
    """Import a room when it is first used: ``tl_plugin.models.AdaptationClassifier``."""
    if name in ROOMS:
        return import_module(f'tl_plugin.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
