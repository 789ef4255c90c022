"""What mmpretrain's wrappers lack: every timm and torchvision model, with pooled features."""

from .dann_digits import DANNDigitsBackbone
from .pooled_timm import PooledTimmBackbone
from .pooled_torchvision import PooledTorchvisionBackbone
from .protect import guard_classifiers, protect_pretrained

guard_classifiers()

__all__ = [
    'DANNDigitsBackbone',
    'PooledTimmBackbone',
    'PooledTorchvisionBackbone',
    'protect_pretrained',
]
