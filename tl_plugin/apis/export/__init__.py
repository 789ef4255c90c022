"""Write a trained model as a file that others run without mmpretrain and without this package."""

from .export import Exported, export_model

__all__ = ['Exported', 'export_model']
