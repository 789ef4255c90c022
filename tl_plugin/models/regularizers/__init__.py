from .base import ModelView, Regularizer
from .bss import BSSRegularizer
from .delta import DELTARegularizer
from .l2_sp import L2SPRegularizer
from .lwf import LwFRegularizer
from .regularizers import Regularizers, SourceModel

__all__ = [
    'BSSRegularizer',
    'DELTARegularizer',
    'L2SPRegularizer',
    'LwFRegularizer',
    'ModelView',
    'Regularizer',
    'Regularizers',
    'SourceModel',
]
