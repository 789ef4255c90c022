from .inverse_decay import InverseDecayLR

__all__ = ['InverseDecayLR']
