"""How similar the source model and the adapted model are on the same images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tl_plugin.functional import minibatch_cka, prediction_flips

from .model_outputs import ModelOutputs


class Similarity(NamedTuple):
    """How alike two models are.

    Attributes:
        cka: Depth -> debiased linear CKA of the layer's output.
        cosine: Mean cosine of an image's features in both models.
        flips: Percent of images whose predicted class differs.
        gained: Percent of labelled images that only the adapted model has right. None without.
        lost: Percent of labelled images that only the source model has right. None without.
        drift: How far the classes' centres have moved, see :func:`centre_drift`.
    """

    cka: dict[int, float]
    cosine: float
    flips: float
    gained: float | None
    lost: float | None
    drift: float

    def scalars(self, width: int) -> dict[str, float]:
        """Return flat names for a log; layers as ``cka/03``, ``width`` digits each."""
        values = self._asdict()
        layers = values.pop('cka')
        found = {f'cka/{depth:0{width}d}': value for depth, value in layers.items()}
        return {**found, **{name: value for name, value in values.items() if value is not None}}


def compare(source: ModelOutputs, adapted: ModelOutputs) -> Similarity:
    """Compare what two models output for the same images."""
    flips = prediction_flips(source.predictions, adapted.predictions, source.labels)
    flipped, gained, lost = (None if share is None else 100 * share for share in flips)
    return Similarity(
        cka={
            depth: minibatch_cka(grams, adapted.grams[depth])
            for depth, grams in source.grams.items()
        },
        cosine=cosine_similarity(source.features, adapted.features).mean().item(),
        flips=flipped,
        gained=gained,
        lost=lost,
        drift=centre_drift(source.features, adapted.features, source.predictions),
    )


def centre_drift(source: Tensor, adapted: Tensor, classes: Tensor) -> float:
    """Return how far the centres of classes have moved, in units of how far apart they were.

    Args:
        source: Features in the source model, (N, D).
        adapted: Features of the same images in the adapted model, (N, D).
        classes: What the source model predicts, (N,): it groups images without labels.

    Returns:
        Mean distance between a class's centres in both models, over the mean distance between two
        classes' centres in the source model; nan where that model predicts a single class.

    Example:
        >>> before = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
        >>> centre_drift(before, before + torch.tensor([0.0, 1.0]), torch.tensor([0, 1]))
        0.25
    """
    before, now = (
        torch.stack([features[classes == label].double().mean(0) for label in classes.unique()])
        for features in (source, adapted)
    )
    if len(before) < 2:
        return float('nan')
    return ((now - before).norm(dim=1).mean() / torch.pdist(before).mean()).item()
