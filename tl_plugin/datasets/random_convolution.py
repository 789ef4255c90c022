"""Change what surfaces look like and keep shapes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from .image_quality import check_image


@TRANSFORMS.register_module()
class RandomConvolution(BaseTransform):
    """Filter an image by a convolution with random weights, mixed with the image itself.

    Xu et al., "Robust and Generalizable Visual Representation Learning via Random Convolutions",
    ICLR 2021, arXiv 2007.13003: colours and textures change at random, shapes larger than the
    kernel stay, so that a classifier learns from shapes what holds in another style of images. The
    result has a mean of mid-grey and the standard deviation of the image.

    Works on ``img``: uint8, grey or colour, of any size, before normalisation.

    Required Keys: img. Modified Keys: img

    Args:
        prob: Probability that an image is changed. Defaults to 0.5.
        kernel_sizes: Sides of the kernel, odd numbers, one of which is drawn. Defaults to
            (1, 3, 5, 7).

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: In a pipeline, if the image isn't uint8.

    Example:
        >>> image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        >>> found = RandomConvolution(prob=1.0)(dict(img=image))['img']
        >>> found.shape, found.dtype, bool((found == image).all())
        ((32, 32, 3), dtype('uint8'), False)
    """

    def __init__(self, prob: float = 0.5, kernel_sizes: Sequence[int] = (1, 3, 5, 7)) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'RandomConvolution: prob must be in [0, 1], got {prob}')
        if not kernel_sizes or not all(size > 0 and size % 2 for size in kernel_sizes):
            raise ValueError(
                f'RandomConvolution: kernel_sizes must be odd numbers of at least 1, '
                f'got {list(kernel_sizes)}'
            )
        self.prob = prob
        self.kernel_sizes = tuple(kernel_sizes)

    def transform(self, results: dict) -> dict:
        """Filter ``results['img']``, or leave it."""
        # numpy's own generator, as mmcv's transforms: a loader seeds it for each image.
        if np.random.random_sample() >= self.prob:
            return results
        image = results['img']
        check_image(image, 'RandomConvolution', 'put it before transforms to float')
        channels = np.atleast_3d(image).shape[2]
        size = int(np.random.choice(self.kernel_sizes))
        weight = np.random.standard_normal((channels, channels, size, size))
        found = convolve(image, weight, np.random.random_sample())
        results['img'] = found.reshape(image.shape)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, kernel_sizes={self.kernel_sizes})'


def convolve(image: np.ndarray, weight: np.ndarray, share: float) -> np.ndarray:
    """Mix an image with its convolution.

    Args:
        image: ``(H, W, C)`` or ``(H, W)``, uint8.
        weight: Of a convolution from C to C channels, ``(C, C, k, k)``, in multiples of one over
            the square root of an output's number of inputs.
        share: Of the image in the mixture, 0 to 1.

    Returns:
        ``(H, W, C)``, uint8, with the image's standard deviation around mid-grey; where it has
        none, mid-grey.
    """
    centred = np.atleast_3d(image).astype(np.float32) - 127.5
    weight = (weight / np.sqrt(weight[0].size)).astype(np.float32)
    mixed = share * centred
    for row, out in zip(weight, np.moveaxis(mixed, 2, 0)):
        for kernel, channel in zip(row, np.moveaxis(centred, 2, 0)):
            filtered = cv2.filter2D(channel, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
            out += (1 - share) * filtered
    mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-3) * centred.std() + 127.5
    return np.clip(mixed.round(), 0, 255).astype(np.uint8)
