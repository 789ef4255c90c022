"""What a model last said of each target image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tl_plugin.stack.gather import gather_ranks


class NeighbourMemory:
    """Features and predictions of all target images, by index; the same in every process.

    Args:
        features: One vector of length 1 an image, (n, D).
        probabilities: Predictions, (n, K).
    """

    def __init__(self, features: Tensor, probabilities: Tensor) -> None:
        self.features, self.probabilities = features, probabilities

    def state(self) -> dict[str, Tensor]:
        """Return the arguments of a memory that continues with it, on the CPU."""
        return {'features': self.features.cpu(), 'probabilities': self.probabilities.cpu()}

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor, logits: Tensor) -> None:
        """Remember a batch, of all processes.

        Args:
            indices: Of the images in the target data set, (N,).
            features: (N, D).
            logits: (N, K).
        """
        parts = (indices, F.normalize(features.float()), logits.float().softmax(1))
        indices, *values = (gather_ranks(part) for part in parts)
        for kept, new in zip((self.features, self.probabilities), values):
            kept.index_copy_(0, indices, new)

    @torch.no_grad()
    def neighbours(self, indices: Tensor, count: int) -> Tensor:
        """Return the predictions for the images that lie nearest to each, in cosine distance.

        Args:
            indices: Of the images, (N,).
            count: How many neighbours; an image is none of its own.

        Returns:
            Probabilities, (N, count, K).
        """
        similarity = self.features[indices] @ self.features.T
        similarity.scatter_(1, indices[:, None], -torch.inf)
        return self.probabilities[similarity.topk(count, dim=1).indices]
