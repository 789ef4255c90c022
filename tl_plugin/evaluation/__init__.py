from .label_free_score import LabelFreeScore

__all__ = ['LabelFreeScore']
