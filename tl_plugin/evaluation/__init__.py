from .calibration import CalibrationError
from .expected_accuracy import ExpectedAccuracy, expected_accuracy
from .metrics import LabelledOnly
from .source_reference import Outputs, SourceReference, source_reference
from .validators import TargetValidator

__all__ = [
    'CalibrationError',
    'ExpectedAccuracy',
    'LabelledOnly',
    'Outputs',
    'SourceReference',
    'TargetValidator',
    'expected_accuracy',
    'source_reference',
]
