"""Which weights train, and when; what watches over training."""

from .adabn_hook import AdaBNHook
from .adversary_monitor_hook import AdversaryMonitorHook
from .centroid_pseudo_label_hook import CentroidPseudoLabelHook
from .collapsed_predictions_hook import CollapsedPredictionsHook
from .freeze_hook import FreezeHook
from .frozen_alignment_hook import FrozenAlignmentHook
from .gradual_unfreeze_hook import GradualUnfreezeHook
from .image_memory_hook import ImageMemoryHook
from .label_shift_hook import LabelShiftHook
from .label_weights_hook import LabelWeightsHook
from .lora_hook import LoRAHook
from .monitor_check_hook import MonitorCheckHook
from .neighbour_memory_hook import NeighbourMemoryHook
from .quality_match_hook import QualityMatchHook
from .relative_gradient_norm_hook import RelativeGradientNormHook
from .retention_hook import RetentionHook
from .similarity_hook import SimilarityHook
from .slow_layers_hook import SlowLayersFreezeHook
from .small_loss_hook import SmallLossHook
from .source_model_hook import SourceModelHook
from .test_time_adaptation_hook import TestTimeAdaptationHook
from .validation_risk_hook import ValidationRiskHook
from .warmup_hook import WarmupHook

__all__ = [
    'AdaBNHook',
    'AdversaryMonitorHook',
    'CentroidPseudoLabelHook',
    'CollapsedPredictionsHook',
    'FreezeHook',
    'FrozenAlignmentHook',
    'GradualUnfreezeHook',
    'ImageMemoryHook',
    'LabelShiftHook',
    'LabelWeightsHook',
    'LoRAHook',
    'MonitorCheckHook',
    'NeighbourMemoryHook',
    'QualityMatchHook',
    'RelativeGradientNormHook',
    'RetentionHook',
    'SimilarityHook',
    'SlowLayersFreezeHook',
    'SmallLossHook',
    'SourceModelHook',
    'TestTimeAdaptationHook',
    'ValidationRiskHook',
    'WarmupHook',
]
