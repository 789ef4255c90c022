from tl_plugin.datasets.degrade_quality import DegradeQuality
from tl_plugin.datasets.digits import DigitsDataset
from tl_plugin.datasets.mnist_m import MNISTM
from tl_plugin.datasets.repeat_channels import RepeatChannels
from tl_plugin.datasets.several_sources import SeveralSources
from tl_plugin.datasets.stock_folders import read_folders_alike

read_folders_alike()

__all__ = ['MNISTM', 'DegradeQuality', 'DigitsDataset', 'RepeatChannels', 'SeveralSources']
