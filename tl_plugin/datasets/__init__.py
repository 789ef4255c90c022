from .corrected_labels import CorrectedLabels
from .degrade_quality import DegradeQuality
from .digits import DigitsDataset
from .folders import patch_stock_folders
from .mnist_m import MNISTM, RepeatChannels
from .random_convolution import RandomConvolution
from .several_sources import SeveralSources

patch_stock_folders()

__all__ = [
    'MNISTM',
    'CorrectedLabels',
    'DegradeQuality',
    'DigitsDataset',
    'RandomConvolution',
    'RepeatChannels',
    'SeveralSources',
]
