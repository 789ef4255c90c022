from .bottleneck import BottleneckNeck

__all__ = ['BottleneckNeck']
