"""Adapts a model to the images that it is asked about, while it predicts them."""

from .adapter import TestTimeAdapter
from .options import TestTimeOptions

__all__ = ['TestTimeAdapter', 'TestTimeOptions']
