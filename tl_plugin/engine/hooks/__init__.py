"""Which weights train, and when; what watches over training."""
from .adabn_hook import AdaBNHook
from .adversary_monitor_hook import AdversaryMonitorHook
from .centroid_pseudo_label_hook import CentroidPseudoLabelHook
from .exact_resume_hook import ExactResumeHook
from .freeze_hook import FreezeHook
from .gradual_unfreeze_hook import GradualUnfreezeHook
from .retention_hook import RetentionHook
from .source_model_hook import SourceModelHook

__all__ = [
    'AdaBNHook',
    'AdversaryMonitorHook',
    'CentroidPseudoLabelHook',
    'ExactResumeHook',
    'FreezeHook',
    'GradualUnfreezeHook',
    'RetentionHook',
    'SourceModelHook',
]
