from __future__ import annotations

from mmpretrain.registry import MODELS
from torch import Tensor, nn

from tl_plugin.engine.layers import LayerOutputs
from tl_plugin.engine.layers.selection import LayerSpec
from tl_plugin.functional import feature_map_distance
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import ModelView, Regularizer

_DEFAULT_LAYERS = 4


@MODELS.register_module()
class DELTARegularizer(Regularizer):
    """Keep feature maps near the source model's (DELTA).

    Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional
    Networks", ICLR 2019, arXiv 1901.09229, with all channels attended alike, see
    :func:`tl_plugin.functional.feature_map_distance`. Weights may change as long as the
    feature maps stay. Costs a forward pass of the source model without gradient.

    Args:
        layers: Depths whose outputs are compared: ``'4:-1'``, ``[2, 5]``; the head has none.
            Defaults to None, four spread evenly over the backbone, its last one among them.
        relative: Compare in units of the source model's own maps, so that one ``loss_weight`` fits
            networks whose maps differ in scale by orders of magnitude. False computes what is
            published; TLlib's 0.01 for 48 images is then a ``loss_weight`` of 0.48. Defaults to
            True.
        loss_weight: Factor of the loss. Defaults to 1.
        **kwargs: ``images``, ``init_cfg``: see :class:`Regularizer`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    reads = ('maps',)

    @checked
    def __init__(
        self,
        layers: LayerSpec | None = None,
        relative: bool = True,
        loss_weight: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(loss_weight=loss_weight, **kwargs)
        self.layers = layers
        self.relative = relative

    def prepare(self, classifier: nn.Module) -> None:
        """Find the layers whose outputs are compared."""
        max_layers = _DEFAULT_LAYERS if self.layers is None else None
        self.outputs = LayerOutputs(classifier, self.layers, max_layers)

    def forward(self, source: ModelView, adapted: ModelView) -> Tensor:
        """Return the distance, summed over the layers, mean over the images."""
        energies = None
        if self.relative:
            # Of the images of all ranks, so that all of them divide by the same.
            sums = [maps.detach().float().square().sum()[None] for maps in source.maps]
            energies = [gather_ranks(value).mean() for value in sums]
        return feature_map_distance(source.maps, adapted.maps, energies)
