"""How fast each layer trains."""

from .layerwise_lr import LayerwiseLROptimWrapperConstructor

__all__ = ['LayerwiseLROptimWrapperConstructor']
