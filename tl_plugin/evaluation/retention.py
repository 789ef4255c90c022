"""How much of the source ability a model keeps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tl_plugin.functional import prediction_flips


class Baseline(NamedTuple):
    """What the source model can do, measured before training.

    Attributes:
        metric: On the source, in points: percent for an accuracy.
        predictions: Its predicted classes of the source images, (N,).
    """

    metric: float
    predictions: Tensor


class Retention(NamedTuple):
    """What the model keeps of it.

    Attributes:
        forgetting: Metric before minus metric now, in points; negative where it gained.
        agreement: Percent of the source images of which it predicts what the source model does.
    """

    forgetting: float
    agreement: float

    def within(self, budget: float) -> bool:
        """Whether no more than so many points are lost; what rounding moved doesn't count."""
        return self.forgetting <= budget + 1e-6


def retention(baseline: Baseline, metric: float, predictions: Tensor) -> Retention:
    """Compare a model with its baseline.

    Args:
        baseline: Of the source model.
        metric: The same metric now.
        predictions: Predicted classes of the same images now, (N,).
    """
    flips = prediction_flips(baseline.predictions, predictions)
    return Retention(baseline.metric - metric, 100 * (1 - flips.flipped))
