"""How far two domains lie apart in a network's features, each figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tl_plugin.functional import gaussian_kernel
from tl_plugin.functional.frechet import frechet_distance
from tl_plugin.functional.mmd import BANDWIDTHS
from tl_plugin.functional.weighted_mmd import weighted_mean_discrepancy

from .estimates import RESAMPLES, Estimate, estimate, resampled

#: Directions of the features that the gap is measured in, those in which images differ most.
COMPONENTS = 64
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


def reduce_features(
    source: np.ndarray, target: np.ndarray, components: int = COMPONENTS
) -> tuple[np.ndarray, np.ndarray, float]:
    """Project both domains on their joint principal components.

    Args:
        source: ``(N, D)``.
        target: ``(M, D)``.
        components: How many at most; a quarter of the smaller domain's images bounds them too.

    Returns:
        Both, centred, with a mean squared length of 1, and the share of the variance they keep.

    Raises:
        ValueError: If a domain has fewer than 8 images, or a feature isn't finite.
    """
    from sklearn.decomposition import PCA

    if min(len(source), len(target)) < 8:
        raise ValueError(
            f'a domain gap needs 8 readable images of each domain or more, got {len(source)} of '
            f'the source and {len(target)} of the target'
        )
    joint = np.concatenate([source, target]).astype(np.float64)
    if not np.isfinite(joint).all():
        raise ValueError('some features are not finite: check the model and its checkpoint')
    limit = max(min(len(source), len(target)) // 4, 2)
    pca = PCA(min(components, joint.shape[1], limit), svd_solver='randomized', random_state=0)
    joint = pca.fit_transform(joint)
    joint /= max(np.sqrt((joint**2).sum(1).mean()), 1e-12)
    explained = float(np.clip(np.nan_to_num(pca.explained_variance_ratio_.sum()), 0, 1))
    return joint[: len(source)], joint[len(source) :], explained


def domain_gap(
    source: np.ndarray, target: np.ndarray, explained: float = 1.0, seed: int = 0
) -> DomainGap:
    """Measure the gap between two domains.

    Args:
        source: ``(N, D)``, of :func:`reduce_features`.
        target: ``(M, D)``.
        explained: What :func:`reduce_features` said, to be kept with the figures.
        seed: Of folds, resamples and permutations. Defaults to 0.
    """
    rng = np.random.default_rng(seed)
    accuracy = domain_accuracy(source, target, rng)
    mmd, p_value = _mmd(source, target, rng)
    halves = np.array_split(rng.permutation(source), 2)
    floor_accuracy = domain_accuracy(*halves, rng).value
    floor = {
        'proxy_a_distance': _a_distance(floor_accuracy),
        'domain_accuracy': floor_accuracy,
        'mmd': _mmd(*halves, rng)[0].value,
        'frechet': _frechet(*halves, rng).value,
    }
    return DomainGap(
        proxy_a_distance=Estimate(*map(_a_distance, accuracy)),
        domain_accuracy=accuracy,
        mmd=mmd,
        mmd_p_value=p_value,
        frechet=_frechet(source, target, rng),
        floor=floor,
        components=source.shape[1],
        explained=explained,
        images=(len(source), len(target)),
    )


def domain_accuracy(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Balanced accuracy of a linear classifier that tells the domains apart.

    Logistic regression, cross-validated. The interval resamples the images and keeps the
    classifiers: refitted on resamples they would be tested on copies of what they learned.

    Args:
        source: ``(N, D)``.
        target: ``(M, D)``.
        rng: Of the folds and resamples.

    Returns:
        0.5 is chance, 1 is perfect.
    """
    scores = domain_scores(source, target, rng)
    right = (scores > 0) == (np.arange(len(scores)) >= len(source))
    parts = right[: len(source)], right[len(source) :]
    replicates = [resampled(len(part), rng) @ part / len(part) for part in parts]
    value = float(np.mean([part.mean() for part in parts]))
    return estimate(value, np.mean(replicates, axis=0), 0, 1)


def domain_scores(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a linear classifier that never saw an image says of it: above 0, target.

    Returns:
        ``(N + M,)``, log odds.
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
    """Ben-David et al., "Analysis of Representations for Domain Adaptation", NIPS 2006."""
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
    """Distance of two centres, without the share of it that a few images' scatter makes.

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
    """The estimate and its resamples."""
    weights = []
    for part, count in enumerate((num_source, num_target)):
        drawn = np.concatenate([np.ones((1, count)), resampled(count, rng)])
        others = np.zeros((len(drawn), num_target if part == 0 else num_source))
        weights.append(np.concatenate([drawn, others] if part == 0 else [others, drawn], axis=1))
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
