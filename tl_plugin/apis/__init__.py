"""What a program calls: predict a million images, calibrate a model."""

from .calibration import calibrate, calibrate_run
from .image_list import ImageList, list_images
from .predict import predict
from .settings import Settings
from .summary import Summary

__all__ = [
    'ImageList',
    'Settings',
    'Summary',
    'calibrate',
    'calibrate_run',
    'list_images',
    'predict',
]
