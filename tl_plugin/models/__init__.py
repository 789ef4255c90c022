from . import backbones, losses, necks  # noqa: F401
from .adaptation_classifier import AdaptationClassifier
from .alignments import Alignment, DANNHead, DomainBatch
from .data_preprocessor import DomainDataPreprocessor
from .lora_classifier import LoRAClassifier
from .test_time_classifier import TestTimeClassifier

__all__ = [
    'AdaptationClassifier',
    'Alignment',
    'DANNHead',
    'DomainBatch',
    'DomainDataPreprocessor',
    'LoRAClassifier',
    'TestTimeClassifier',
]
