"""Which weights train, and when."""
from .freeze_hook import FreezeHook

__all__ = ['FreezeHook']
