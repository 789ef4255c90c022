from .calibration import CalibrationError
from .metrics import LabelledOnly
from .validators import TargetValidator

__all__ = ['CalibrationError', 'LabelledOnly', 'TargetValidator']
