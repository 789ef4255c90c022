"""LayerMap: the only code that knows where a parameter sits in a model."""

from .layer_map import LayerMap
from .outputs import LayerOutputs

__all__ = ['LayerMap', 'LayerOutputs']
