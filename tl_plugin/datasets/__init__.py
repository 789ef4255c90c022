from .degrade_quality import DegradeQuality
from .digits import DigitsDataset
from .mnist_m import MNISTM, RepeatChannels
from .several_sources import SeveralSources
from .stock_folders import read_folders_alike

read_folders_alike()

__all__ = ['MNISTM', 'DegradeQuality', 'DigitsDataset', 'RepeatChannels', 'SeveralSources']
