"""Choose among models of one unlabelled target, and say how surely one is ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .intervals import resample_counts


@dataclass(frozen=True)
class Vote:
    """How models of one target rank, without its labels.

    Args:
        scores: Model -> mean of its two ranks, each the share of models that it is ahead of, in
            [0, 1]; higher is better.
        replicates: The same in resamples of the images, (RESAMPLES, models).
    """

    scores: dict[str, float]
    replicates: np.ndarray

    def ahead(self, model: str, of: str) -> float:
        """Return the share of resamples in which a model has the higher score, ties half."""
        ours, theirs = (self.replicates[:, list(self.scores).index(name)] for name in (model, of))
        return float(((ours > theirs).mean() + (ours >= theirs).mean()) / 2)


def vote(targets: Mapping[str, Tensor], seed: int = 0) -> Vote:
    """Rank models of one target without its labels: what they say of the same images votes.

    Models that were adapted in different ways seldom make the same mistakes (Jiang et al.,
    "Assessing Generalization of SGD via Disagreement", ICLR 2022, arXiv 2106.13799, on models
    trained apart), so that a model is likely to be right where it agrees with the others. Two
    scores vote by rank: :func:`consensus` and :func:`shared_confidence`.

    Args:
        targets: Model -> its log-probabilities of the same unlabelled images, (N, K).
        seed: Of the resamples.

    Raises:
        ValueError: If there is no model, or models predict other numbers of images.
    """
    counts = {name: len(target) for name, target in targets.items()}
    if not counts or len({*counts.values()}) > 1 or 0 in counts.values():
        raise ValueError(
            'models are ranked by their predictions of the same target images, at least one, got '
            f'{counts or "no model"}'
        )
    probabilities = torch.stack([target.float().exp() for target in targets.values()])
    signals = [score(probabilities).numpy() for score in SCORES.values()]
    count = next(iter(counts.values()))
    weights = resample_counts(count, np.random.default_rng(seed)) / count
    ranked = np.mean([_ranks(signal.mean(1)[None]) for signal in signals], axis=0)[0]
    replicates = np.mean([_ranks(weights @ signal.T) for signal in signals], axis=0)
    return Vote(dict(zip(targets, ranked.tolist())), replicates)


def consensus(probabilities: Tensor) -> Tensor:
    """Return for which images each model predicts the class that all together find likeliest.

    Args:
        probabilities: (M, N, K).

    Returns:
        (M, N), 0 or 1.
    """
    return (probabilities.argmax(2) == probabilities.mean(0).argmax(1)).float()


def shared_confidence(probabilities: Tensor) -> Tensor:
    """Return how likely each model and the others, on average, are to name the same class.

    A model that is sure of what nobody else sees is low, and so is one that is unsure.

    Args:
        probabilities: (M, N, K).

    Returns:
        (M, N), in [0, 1].
    """
    others = (probabilities.sum(0) - probabilities) / max(len(probabilities) - 1, 1)
    return (probabilities * others).sum(2)


def mutual_agreement(probabilities: Tensor) -> Tensor:
    """Return which share of the others predicts the class that each model predicts.

    Unlike :func:`shared_confidence`, it doesn't depend on how long the models were trained, which
    makes them surer.

    Args:
        probabilities: (M, N, K).

    Returns:
        (M, N), in [0, 1].
    """
    predicted = F.one_hot(probabilities.argmax(2), probabilities.shape[2])
    return shared_confidence(predicted.to(probabilities))


#: What votes. tools/benchmarks/recommendations.py --no-target-labels compares 63 votes over eight
#: pairs of domains: this one is the best on the other seven for six of the pairs.
SCORES = {'consensus': consensus, 'shared confidence': shared_confidence}


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return the share of models that each is ahead of, ties half, by row, (R, models)."""
    ours, theirs = scores[:, :, None], scores[:, None, :]
    # Sums of the same values in another order differ in their last digits.
    ahead = (ours > theirs + 1e-9).mean(2) + (ours >= theirs - 1e-9).mean(2)
    return ahead / 2
