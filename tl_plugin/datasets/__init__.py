from tl_plugin.datasets.digits import DigitsDataset

__all__ = ['DigitsDataset']
