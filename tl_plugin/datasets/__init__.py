from .degrade_quality import DegradeQuality
from .digits import DigitsDataset
from .mnist_m import MNISTM, RepeatChannels
from .several_sources import SeveralSources
from .stock_folders import patch_stock_folders

patch_stock_folders()

__all__ = ['MNISTM', 'DegradeQuality', 'DigitsDataset', 'RepeatChannels', 'SeveralSources']
