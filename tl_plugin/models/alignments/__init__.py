from .base import Alignment, DomainBatch
from .dann_head import DANNHead

__all__ = ['Alignment', 'DANNHead', 'DomainBatch']
