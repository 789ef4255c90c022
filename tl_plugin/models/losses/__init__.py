from .robust_loss import RobustLoss

__all__ = ['RobustLoss']
