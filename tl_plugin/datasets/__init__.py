from tl_plugin.datasets.digits import DigitsDataset
from tl_plugin.datasets.mnist_m import MNISTM
from tl_plugin.datasets.repeat_channels import RepeatChannels

__all__ = ['MNISTM', 'DigitsDataset', 'RepeatChannels']
