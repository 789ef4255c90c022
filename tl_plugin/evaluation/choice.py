"""Choose among models of one unlabelled target, and say how surely one is ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tl_plugin.functional.expected_accuracy import transported_confidence

from .intervals import resample_counts
from .source_reference import Outputs


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


def vote(models: Mapping[str, tuple[Outputs, Tensor]], seed: int = 0) -> Vote:
    """Rank models by what they say of unlabelled images: agreement and optimal transport.

    Two scores that see different faults vote by rank. A model *agrees* with the others where most
    of them predict the same class, since models that were adapted in different ways seldom make
    the same mistakes (Jiang et al., ICLR 2022, arXiv 2106.13799, on models trained apart). Its
    *transported confidence* (COT, Lu et al., NeurIPS 2023, arXiv 2305.15640) is low where it is
    unsure, and where it is sure of too few classes.

    Args:
        models: Name -> what it outputs on held-out source images, of which the labels alone are
            used, and its log-probabilities of the same unlabelled target images, (N, K).
        seed: Of the resamples.

    Raises:
        ValueError: If there is no model, or models predict other numbers of images.
    """
    counts = {name: len(target) for name, (_, target) in models.items()}
    if not counts or len({*counts.values()}) > 1 or 0 in counts.values():
        raise ValueError(
            'models are ranked by their predictions of the same target images, at least one, got '
            f'{counts or "no model"}'
        )
    signals = [agreement_of_images(models), transport_of_images(models)]
    count = next(iter(counts.values()))
    weights = resample_counts(count, np.random.default_rng(seed)) / count
    ranked = np.mean([_ranks(signal.mean(1)[None]) for signal in signals], axis=0)[0]
    replicates = np.mean([_ranks(weights @ signal.T) for signal in signals], axis=0)
    return Vote(dict(zip(models, ranked.tolist())), replicates)


def agreement_of_images(models: Mapping[str, tuple[Outputs, Tensor]]) -> np.ndarray:
    """Return the share of the other models that predict each image alike, (models, N)."""
    predicted = torch.stack([target.argmax(1) for _, target in models.values()]).numpy()
    alike = (predicted[:, None] == predicted[None]).sum(1) - 1.0
    return alike / max(len(predicted) - 1, 1)


def transport_of_images(models: Mapping[str, tuple[Outputs, Tensor]]) -> np.ndarray:
    """Return each image's confidence in the class that transport gives it, (models, N)."""
    rows = []
    for source, target in models.values():
        prior = F.one_hot(source.labels, target.shape[1]).float().mean(0)
        rows.append(transported_confidence(prior, target).numpy())
    return np.stack(rows)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return the share of models that each is ahead of, ties half, by row, (R, models)."""
    ours, theirs = scores[:, :, None], scores[:, None, :]
    # Sums of the same values in another order differ in their last digits.
    ahead = (ours > theirs + 1e-9).mean(2) + (ours >= theirs - 1e-9).mean(2)
    return ahead / 2
