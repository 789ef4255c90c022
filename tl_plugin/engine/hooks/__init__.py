"""Which weights train, and when."""
from .exact_resume_hook import ExactResumeHook
from .freeze_hook import FreezeHook
from .gradual_unfreeze_hook import GradualUnfreezeHook
from .source_model_hook import SourceModelHook

__all__ = ['ExactResumeHook', 'FreezeHook', 'GradualUnfreezeHook', 'SourceModelHook']
