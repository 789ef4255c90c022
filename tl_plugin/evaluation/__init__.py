from .label_free_score import LabelFreeScore
from .labelled_only import LabelledOnly

__all__ = ['LabelFreeScore', 'LabelledOnly']
