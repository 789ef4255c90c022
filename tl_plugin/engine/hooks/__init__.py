"""Which weights train, and when."""
from .freeze_hook import FreezeHook
from .gradual_unfreeze_hook import GradualUnfreezeHook

__all__ = ['FreezeHook', 'GradualUnfreezeHook']
