from .metrics import LabelledOnly
from .validators import TargetValidator

__all__ = ['LabelledOnly', 'TargetValidator']
