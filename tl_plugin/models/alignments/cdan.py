from __future__ import annotations

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from tl_plugin.functional import multilinear_map, prediction_entropy, random_multilinear_map
from tl_plugin.stack.gather import gather_ranks
from tl_plugin.stack.options import checked

from .base import DomainBatch
from .dann import DANNHead


@MODELS.register_module()
class CDANHead(DANNHead):
    """A domain classifier of features and class predictions together (CDAN, CDAN+E).

    Its input is the outer product of each image's features and class probabilities, so that it
    detects, and the features remove, differences within a class. No gradient flows through the
    probabilities. Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv
    1705.10667.

    Logs what :class:`DANNHead` does.

    Args:
        entropy_conditioning: CDAN+E: weigh each image by 1 + exp(-entropy of its prediction), so
            that alignment focuses on certain images. As in the authors' code the weights are
            divided by their mean over the domain (over all processes) and pass no gradient.
            Defaults to False.
        max_channels: Largest outer product; a larger one is replaced by a random projection.
            Defaults to 4096, as in the paper.
        random_channels: Width of that projection. Defaults to 1024, as in the paper.
        **kwargs: See :class:`DANNHead`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    needs_logits = True

    @checked
    def __init__(
        self,
        entropy_conditioning: bool = False,
        max_channels: int = 4096,
        random_channels: int = 1024,
        **kwargs,
    ) -> None:
        if random_channels < 1:
            raise ValueError(f'CDANHead: random_channels must be >= 1, got {random_channels}')
        if max_channels < 0:
            raise ValueError(f'CDANHead: max_channels must be >= 0, got {max_channels}')
        self.max_channels = max_channels
        self.random_channels = random_channels
        super().__init__(**kwargs)
        self.entropy_conditioning = entropy_conditioning
        if self.is_random():
            # From a generator of their own: processes may have different seeds, and mmengine's DDP
            # does not synchronise buffers. In the checkpoint, as the classifier depends on them.
            generator = torch.Generator().manual_seed(0)
            for name, width in (('feature', self.in_features), ('prediction', self.num_classes)):
                projection = torch.randn(width, random_channels, generator=generator)
                self.register_buffer(f'{name}_projection', projection)

    def is_random(self) -> bool:
        """Return whether the outer product is too large and replaced by a random projection."""
        return self.in_features * self.num_classes > self.max_channels

    def classifier_width(self) -> int:
        """Return the width of the domain classifier's input."""
        return self.random_channels if self.is_random() else self.in_features * self.num_classes

    def classifier_inputs(self, batch: DomainBatch) -> Tensor:
        """Return the (projected) outer product of features and predictions."""
        predictions = batch.logits.detach().softmax(dim=1)
        if self.is_random():
            return random_multilinear_map(
                batch.features, predictions, self.feature_projection, self.prediction_projection
            )
        return multilinear_map(batch.features, predictions)

    def image_weights(self, batch: DomainBatch) -> Tensor | None:
        """Return the weights of CDAN+E, times those of the images."""
        if not self.entropy_conditioning:
            return batch.weights
        weights = 1 + torch.exp(-prediction_entropy(batch.logits.detach()))
        if batch.weights is not None:
            weights = weights * batch.weights
        return weights / gather_ranks(weights).mean()
