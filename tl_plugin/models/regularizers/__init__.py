from .base import ModelView, Regularizer
from .bss import BSSRegularizer
from .delta import DELTARegularizer
from .early_learning import EarlyLearningRegularizer
from .l2_sp import L2SPRegularizer
from .lwf import LwFRegularizer
from .regularizers import Regularizers, SourceModel

__all__ = [
    'BSSRegularizer',
    'DELTARegularizer',
    'EarlyLearningRegularizer',
    'L2SPRegularizer',
    'LwFRegularizer',
    'ModelView',
    'Regularizer',
    'Regularizers',
    'SourceModel',
]
