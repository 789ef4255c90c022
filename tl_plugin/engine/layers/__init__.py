"""LayerMap: the only code that knows where a parameter sits in a model."""
from .layer_map import LayerMap

__all__ = ['LayerMap']
