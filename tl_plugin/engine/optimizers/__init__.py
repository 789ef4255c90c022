"""How fast each layer trains."""

from .cpu_amp import CPUAmpOptimWrapper
from .layerwise_lr import LayerwiseLROptimWrapperConstructor

__all__ = ['CPUAmpOptimWrapper', 'LayerwiseLROptimWrapperConstructor']
