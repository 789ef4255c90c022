from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RepeatChannels(BaseTransform):
    """Makes a grey image a colour image of equal channels, so that both domains have one shape.

    Required and modified key: ``img``, (H, W) or (H, W, 1). Other images pass unchanged.

    Args:
        channels: How many. Positive. Defaults to 3.

    Raises:
        ValueError: If ``channels`` isn't positive.
    """

    def __init__(self, channels: int = 3) -> None:
        if channels < 1:
            raise ValueError(f'RepeatChannels: channels must be positive, got {channels}')
        self.channels = channels

    def transform(self, results: dict) -> dict:
        """Repeats the one channel."""
        image = results['img']
        image = image[..., None] if image.ndim == 2 else image
        if image.shape[-1] == 1:
            results['img'] = np.repeat(image, self.channels, axis=-1)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(channels={self.channels})'
