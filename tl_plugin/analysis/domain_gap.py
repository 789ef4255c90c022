"""How far two domains lie apart in a network's features, each figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tl_plugin.evaluation.intervals import (
    RESAMPLES,
    Estimate,
    bootstrap_estimate,
    estimate,
    resample_counts,
)
from tl_plugin.functional import (
    BANDWIDTHS,
    frechet_distance,
    gaussian_kernel,
    weighted_mean_discrepancy,
)

#: Images of a domain that the kernel matrix holds.
KERNEL_IMAGES = 1000
FOLDS = 5
_FRECHET_RESAMPLES = 200


@dataclass(frozen=True)
class DomainGap:
    """The gap between two domains.

    Args:
        proxy_a_distance: 0 (can't be told apart) to 2 (a linear classifier always can).
        domain_accuracy: Balanced accuracy of that classifier, 0.5 to 1.
        mmd: Squared MMD, unbiased.
        mmd_p_value: Share of random divisions of all images with an MMD at least as large.
        frechet: Fréchet distance, where the mean squared distance of an image from the centre of
            all is 1; its bias by the number of images is taken off by the bootstrap.
        floor: The same figures between two random halves of the source: what no gap looks like.
        components: Number of principal components.
        explained: Share of the features' variance in them.
        images: Images of the source and of the target.
    """

    proxy_a_distance: Estimate
    domain_accuracy: Estimate
    mmd: Estimate
    mmd_p_value: float
    frechet: Estimate
    floor: dict[str, float]
    components: int
    explained: float
    images: tuple[int, int]


def domain_gap(
    source: np.ndarray, target: np.ndarray, explained: float = 1.0, seed: int = 0
) -> DomainGap:
    """Measure the gap between two domains.

    Args:
        source: ``(N, D)``, of :func:`~tl_plugin.analysis.features.reduce_features`.
        target: ``(M, D)``.
        explained: Share of the variance that reducing kept.
        seed: Of folds, resamples and permutations. Defaults to 0.
    """
    rng = np.random.default_rng(seed)
    accuracy = separability(source, target, rng)
    mmd, p_value = _mmd(source, target, rng)
    halves = np.array_split(rng.permutation(source), 2)
    floor_accuracy = separability(*halves, rng).value
    return DomainGap(
        proxy_a_distance=Estimate(*map(_a_distance, accuracy)),
        domain_accuracy=accuracy,
        mmd=mmd,
        mmd_p_value=p_value,
        frechet=_frechet(source, target, rng),
        floor={
            'proxy_a_distance': _a_distance(floor_accuracy),
            'domain_accuracy': floor_accuracy,
            'mmd': _mmd(*halves, rng)[0].value,
            'frechet': _frechet(*halves, rng).value,
        },
        components=source.shape[1],
        explained=explained,
        images=(len(source), len(target)),
    )


def separability(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Return the balanced accuracy of a linear classifier that tells the domains apart.

    Logistic regression, cross-validated. The interval resamples the images and keeps the
    classifiers: refitted on resamples they would be tested on copies of what they learned.

    Args:
        source: ``(N, D)``.
        target: ``(M, D)``.
        rng: Of the folds and resamples.

    Returns:
        0.5 is chance, 1 is perfect.
    """

    def balanced(source: np.ndarray, target: np.ndarray, axis: int) -> np.ndarray:
        return ((source <= 0).mean(axis) + (target > 0).mean(axis)) / 2

    scores = np.split(domain_scores(source, target, rng), [len(source)])
    return bootstrap_estimate(balanced, *scores, rng=rng, lowest=0, highest=1)


def domain_scores(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return for each image how surely a linear classifier takes it for one of the target.

    The classifier is cross-validated: it hasn't learned from the image.

    Returns:
        ``(N + M,)``, log odds; above 0 means target.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images = np.concatenate([source, target])
    domains = np.arange(len(images)) >= len(source)
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight='balanced', max_iter=1000)
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    return cross_val_predict(classifier, images, domains, cv=folds, method='decision_function')


def _a_distance(accuracy: float) -> float:
    """Turn an accuracy into a proxy A-distance.

    Ben-David et al., "Analysis of Representations for Domain Adaptation", NIPS 2006.
    """
    return float(np.clip(2 * (1 - 2 * (1 - accuracy)), 0, 2))


def _mmd(
    source: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> tuple[Estimate, float]:
    parts = [rng.permutation(part)[:KERNEL_IMAGES] for part in (source, target)]
    kernel = gaussian_kernel(torch.from_numpy(np.concatenate(parts)), BANDWIDTHS)
    value, replicates = _discrepancies(kernel, *map(len, parts), rng)
    total = len(kernel)
    divided = rng.permuted(
        np.tile(np.arange(total) < len(parts[0]), (RESAMPLES, 1)), axis=1
    ).astype(float)
    by_chance = weighted_mean_discrepancy(
        kernel, torch.from_numpy(divided), torch.from_numpy(1 - divided)
    ).numpy()
    p_value = (1 + (by_chance >= value).sum()) / (1 + RESAMPLES)
    return estimate(value, replicates), float(p_value)


def centre_distance(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Estimate the distance of two centres, without the part that the scatter of images adds.

    Args:
        source: ``(N, D)``, N at least 2.
        target: ``(M, D)``, M at least 2.
        rng: Of the resamples.

    Returns:
        Not squared, in the unit of the features; 0 where scatter explains all of it.
    """
    points = torch.from_numpy(np.concatenate([source, target]))
    points = points - points.mean(0)
    value, replicates = _discrepancies(points @ points.T, len(source), len(target), rng)
    squared = estimate(value, replicates[np.isfinite(replicates)], lowest=0)
    return Estimate(*(end**0.5 for end in squared))


def _discrepancies(
    kernel: torch.Tensor, num_source: int, num_target: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return the discrepancy and that of each resample."""
    zeros = np.zeros((1 + RESAMPLES, num_source)), np.zeros((1 + RESAMPLES, num_target))
    counts = [
        np.concatenate([np.ones((1, num)), resample_counts(num, rng)])
        for num in (num_source, num_target)
    ]
    weights = (
        np.concatenate([counts[0], zeros[1]], axis=1),
        np.concatenate([zeros[0], counts[1]], axis=1),
    )
    found = weighted_mean_discrepancy(kernel, *map(torch.from_numpy, weights)).numpy()
    return float(found[0]), found[1:]


def _frechet(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Estimate:
    both = torch.from_numpy(source), torch.from_numpy(target)
    replicates = [
        float(frechet_distance(*(part[rng.integers(len(part), size=len(part))] for part in both)))
        for _ in range(_FRECHET_RESAMPLES)
    ]
    found = float(frechet_distance(*both))
    # Few images make it larger (Chong and Forsyth, "Effectively Unbiased FID and Inception Score
    # and where to find them", CVPR 2020), by about as much as resampling them does once more.
    corrected = max(2 * found - float(np.mean(replicates)), 0.0)
    return estimate(found, np.array(replicates), lowest=0)._replace(value=corrected)
