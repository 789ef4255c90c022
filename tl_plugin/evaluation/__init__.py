from .labelled_only import LabelledOnly
from .validators import TargetValidator

__all__ = ['LabelledOnly', 'TargetValidator']
