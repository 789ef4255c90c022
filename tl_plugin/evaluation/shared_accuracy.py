"""Accuracy to be expected of several models of one target, from how far they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .choice import mutual_agreement
from .expected_accuracy import LEAST_IMAGES, ExpectedAccuracy

#: The log-odds of accuracy on a line over those of mutual agreement, and how far off it is on
#: pairs of domains that it wasn't fitted to, as a standard deviation. All three are what
#: tools/benchmarks/recommendations.py found on eight rungs of eight pairs, in
#: tools/benchmarks/results/candidate_rungs.json; whole_rungs.json has how far off they are on the
#: four that are climbed by default.
SLOPE, SHIFT, SPREAD = 1.01, -0.05, 0.67
#: Two models share one number, whichever of them is right.
LEAST_MODELS = 3
#: A normal deviate: 90% intervals.
_REACH = 1.645
#: No share is taken for surer than that.
LEAST_SHARE = 0.02


def shared_accuracy(models: Mapping[str, Tensor]) -> dict[str, ExpectedAccuracy]:
    """Estimate how many images each of several models predicts right, without labels or a source.

    Models that were adapted in different ways make different mistakes: how often a model names the
    class that the others do (:func:`~tl_plugin.evaluation.choice.mutual_agreement`) tells of its
    accuracy (Jiang et al., ICLR 2022, arXiv 2106.13799; Baek et al., "Agreement-on-the-Line:
    Predicting the Performance of Neural Networks under Distribution Shift", NeurIPS 2022, arXiv
    2206.13089). Models that share their mistakes come out too high.

    Args:
        models: Name -> probabilities of the same images, (N, K), rows add up to 1.

    Returns:
        Name -> its estimate; without a value where there are fewer than three models or 30 images.

    Raises:
        ValueError: If the models predict other numbers of images.
    """
    counts = {name: len(probabilities) for name, probabilities in models.items()}
    if len({*counts.values()}) > 1:
        raise ValueError(f'models are compared on the same images, got {counts}')
    images = next(iter(counts.values()), 0)
    reason = None
    if len(models) < LEAST_MODELS:
        reason = f'it is read off how far {LEAST_MODELS} models agree, and there are {len(models)}'
    elif images < LEAST_IMAGES:
        reason = f'{images} target images are too few, it takes {LEAST_IMAGES}'
    if reason:
        return {name: ExpectedAccuracy(None, reason=reason, images=images) for name in models}
    shared = mutual_agreement(torch.stack([one.float() for one in models.values()])).mean(1)
    return {name: _estimate(value, images) for name, value in zip(models, shared.tolist())}


def _estimate(shared: float, images: int) -> ExpectedAccuracy:
    centre = SHIFT + SLOPE * log_odds(shared)
    value = _share(centre)
    # What other images of the same domain would give, in log-odds too.
    sampling = 1 / (images * value * (1 - value))
    reach = _REACH * math.sqrt(SPREAD**2 + sampling)
    found = dict(mutual_agreement=shared)
    return ExpectedAccuracy(
        value, _share(centre - reach), _share(centre + reach), None, images, found, found
    )


def log_odds(share: float) -> float:
    """Return the log-odds of a share, which is kept off 0 and 1."""
    share = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
    return math.log(share / (1 - share))


def _share(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))
