from .adaptation_loop import AdaptationEpochTrainLoop, AdaptationIterTrainLoop, AdaptationTrainLoop
from .cached_feature_loop import (
    CachedFeatureEpochTrainLoop,
    CachedFeatureIterTrainLoop,
    CachedFeatureTrainLoop,
)
from .domain_eval_loop import DomainTestLoop, DomainValLoop, evaluate
from .frozen_alignment_loop import FrozenAlignmentLoop
from .inherit import add_strong_view, inherit_dataloader
from .paired_loader import PairedLoader, TargetLoader
from .source_free_loop import (
    SourceFreeEpochTrainLoop,
    SourceFreeIterTrainLoop,
    SourceFreeTrainLoop,
)

__all__ = [
    'AdaptationEpochTrainLoop',
    'AdaptationIterTrainLoop',
    'AdaptationTrainLoop',
    'CachedFeatureEpochTrainLoop',
    'CachedFeatureIterTrainLoop',
    'CachedFeatureTrainLoop',
    'DomainTestLoop',
    'DomainValLoop',
    'FrozenAlignmentLoop',
    'PairedLoader',
    'SourceFreeEpochTrainLoop',
    'SourceFreeIterTrainLoop',
    'SourceFreeTrainLoop',
    'TargetLoader',
    'add_strong_view',
    'evaluate',
    'inherit_dataloader',
]
