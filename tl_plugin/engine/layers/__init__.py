"""LayerMap: the only code that knows where a parameter sits in a model."""

from .layer_map import TRAINING_ONLY, LayerMap
from .outputs import LayerOutputs

__all__ = ['TRAINING_ONLY', 'LayerMap', 'LayerOutputs']
