from __future__ import annotations

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DANNDigitsBackbone(BaseModule):
    """The feature extractor of the MNIST to MNIST-M experiment in the DANN paper.

    Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, arXiv 1505.07818,
    figure 4a: conv5-32, max-pool, conv5-48, max-pool, flattened.

    Args:
        in_channels: Channels of the images. Defaults to 3.
        norm: Whether a batch norm follows each convolution, which the paper has not. Defaults to
            False.
        init_cfg: Of mmengine's ``BaseModule``. Defaults to None.

    Example:
        >>> import torch
        >>> DANNDigitsBackbone()(torch.zeros(2, 3, 28, 28))[0].shape
        torch.Size([2, 768])
    """

    img_size = 28

    def __init__(
        self, in_channels: int = 3, norm: bool = False, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.blocks = nn.Sequential(_block(in_channels, 32, norm), _block(32, 48, norm))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(N, C, 28, 28) -> a tuple with one tensor (N, 768)."""
        return (self.blocks(x).flatten(1),)


def _block(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=5),
        *([nn.BatchNorm2d(out_channels)] if norm else []),
        # The same as the paper's rectification before pooling, on a quarter of the values.
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )
