from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ..features import last_output, one_vector


@MODELS.register_module()
class BottleneckNeck(BaseModule):
    """Pool any backbone's last output and reduce its width: Linear, BatchNorm, ReLU.

    Where domains are aligned, features of a few hundred channels that train from scratch do better
    than the backbone's; the DANN, CDAN and MCC of TLlib and SHOT have such a layer of 256.

    Args:
        in_channels: Width of the backbone's output. :class:`AdaptationClassifier` fills it in.
        out_channels: Width of the output. Defaults to 256.
        norm: Whether there is a BatchNorm; it needs two images a batch. Defaults to True.
        init_cfg: Of mmengine's ``BaseModule``. Defaults to None.

    Raises:
        ValueError: If a width is missing or isn't positive.
    """

    #: Whether the classifier fills in ``in_channels``.
    fits_backbone = True

    def __init__(
        self,
        in_channels: int | None = None,
        out_channels: int = 256,
        norm: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if in_channels is None or in_channels < 1 or out_channels < 1:
            raise ValueError(
                f'BottleneckNeck: widths must be positive, got in_channels={in_channels} and '
                f'out_channels={out_channels}; AdaptationClassifier finds in_channels by itself, '
                'in another model give it'
            )
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        if norm:
            layers.append(nn.BatchNorm1d(out_channels))
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def forward(self, feats: Any) -> tuple[Tensor]:
        """Return one vector per image, (N, out_channels), in a tuple as heads expect it.

        Args:
            feats: Maps, tokens or vectors, or a tuple of which the last counts. Of patch and class
                tokens it is the class token.
        """
        return (self.layers(one_vector(last_output(feats))),)
