"""Which corruptions tell the domains apart, and how much of the gap they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.datasets.image_quality import STATISTICS, Statistic
from tl_plugin.evaluation.intervals import Estimate, bootstrap_estimate

from .domain_gap import domain_scores, separability

#: Statistics of the pixels, and those that the scan adds.
LABELS = {
    **STATISTICS,
    'bits_per_pixel': Statistic(
        'file size', 'bits a pixel', 'low', 'Small JPEG files have lost detail to compression.'
    ),
}
#: Statistics that degrading the source can change, with the direction. That a target is brighter or
#: more colourful comes from its scenes and style, and no degradation makes it so.
DEGRADED = {
    'sharpness': -1,
    'blur': 1,
    'noise': 1,
    'brightness': -1,
    'contrast': -1,
    'clipped_dark': 1,
    'color_cast': 1,
    'blockiness': 1,
    'dead_pixels': 1,
    'resolution': -1,
    'bits_per_pixel': -1,
}
_MOST = 4000


@dataclass(frozen=True)
class StatisticGap:
    """One statistic in both domains.

    Args:
        name: Of the statistic.
        source: Median of the source.
        target: Median of the target.
        source_tenth: What the worst tenth of the source is beyond: a corruption of some images
            moves the mean and not the median. The highest tenth where no side is worse.
        target_tenth: Likewise of the target.
        effect: Hedges' g: the difference of the means (target minus source) in standard deviations.
            0.2 is small, 0.5 medium, 0.8 large.
        auc: Chance that a target image has a higher value than a source image, 0 to 1.
        worse: Whether all of the interval is on the worse side; None where neither side
            is one.
    """

    name: str
    source: float
    target: float
    source_tenth: float
    target_tenth: float
    effect: Estimate
    auc: float
    worse: bool | None


@dataclass(frozen=True)
class QualityGap:
    """Image quality of both domains.

    Args:
        statistics: Those that differ most first.
        domain_accuracy: Balanced accuracy of telling the domains apart by quality alone, 0.5 to 1.
        explained: Share of the variance of the feature classifier's domain score, within and
            between domains, that quality predicts linearly, cross-validated, 0 to 1; None where no
            features were compared.
        explained_by_corruptions: Likewise by those statistics alone in which the target is worse
            in a way that degrading the source can cause.
    """

    statistics: tuple[StatisticGap, ...]
    domain_accuracy: Estimate
    explained: float | None = None
    explained_by_corruptions: float | None = None

    def corruptions(self, smallest: float = 0.2) -> list[StatisticGap]:
        """Return the statistics in which the target is worse in a way that degrading can cause.

        Args:
            smallest: Effect from which on a difference counts. Defaults to 0.2, a small one.
        """
        return [
            item
            for item in self.statistics
            if item.effect.value * DEGRADED.get(item.name, 0) >= smallest
        ]


def quality_table(qualities: Sequence[dict[str, float]]) -> tuple[np.ndarray, list[str]]:
    """Tabulate the statistics that all images have, one row an image; returns their names too."""
    names = [name for name in LABELS if all(name in quality for quality in qualities)]
    return np.array([[quality[name] for name in names] for quality in qualities]), names


def quality_gap(
    source: Sequence[dict[str, float]], target: Sequence[dict[str, float]], seed: int = 0
) -> QualityGap | None:
    """Compare the quality of two domains.

    Args:
        source: ``quality`` of the source's images.
        target: Of the target's.
        seed: Of folds and resamples.

    Returns:
        None if a domain has fewer than 8 images.
    """
    if min(len(source), len(target)) < 8:
        return None
    rng = np.random.default_rng(seed)
    table, names = quality_table([*source, *target])
    parts = [rng.permutation(part)[:_MOST] for part in (table[: len(source)], table[len(source) :])]
    gaps = [
        _statistic(name, parts[0][:, column], parts[1][:, column], rng)
        for column, name in enumerate(names)
    ]
    return QualityGap(
        statistics=tuple(sorted(gaps, key=lambda gap: -abs(gap.effect.value))),
        domain_accuracy=separability(*map(_compress_tails, parts), rng),
    )


def explained_by_quality(
    quality: np.ndarray, source: np.ndarray, target: np.ndarray, seed: int = 0
) -> float:
    """Return how much of what tells the domains apart in the features is image quality.

    Args:
        quality: ``(N + M, statistics)``, in the order of the features.
        source: Features ``(N, D)``.
        target: ``(M, D)``.
        seed: Of the folds.

    Returns:
        Cross-validated R² of a ridge regression of the domain score on quality, 0 to 1.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not quality.shape[1]:
        return 0.0
    scores = domain_scores(source, target, np.random.default_rng(seed))
    regression = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    folds = KFold(5, shuffle=True, random_state=seed)
    predicted = cross_val_predict(regression, _compress_tails(quality), scores, cv=folds)
    return float(np.clip(r2_score(scores, predicted), 0, 1))


def hedges_g(source: np.ndarray, target: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the difference of the means in pooled standard deviations, for small samples too.

    Hedges, "Distribution Theory for Glass's Estimator of Effect Size", J. Educational Statistics
    1981. 0 where nothing varies and the means are equal.

    Args:
        source: Values of the source along ``axis``.
        target: Likewise of the target.
        axis: Defaults to the last one.
    """
    counts = source.shape[axis], target.shape[axis]
    freedom = sum(counts) - 2
    squares = counts[0] * source.var(axis) + counts[1] * target.var(axis)
    # Bounds the effect where a statistic is a constant: a thousand standard deviations say enough.
    smallest = 1e-3 * max(abs(source).max(), abs(target).max(), 1e-12)
    deviation = np.maximum(np.sqrt(squares / freedom), smallest)
    return (1 - 3 / (4 * freedom - 1)) * (target.mean(axis) - source.mean(axis)) / deviation


def _statistic(
    name: str, source: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> StatisticGap:
    from sklearn.metrics import roc_auc_score

    effect = bootstrap_estimate(hedges_g, source, target, rng=rng)
    # Only what the interval is sure of.
    side = {'high': effect.low > 0, 'low': effect.high < 0}.get(LABELS[name].worse)
    domains = np.repeat([0, 1], [len(source), len(target)])
    low = DEGRADED.get(name, -1 if LABELS[name].worse == 'low' else 1) < 0
    tenth = 0.1 if low else 0.9
    return StatisticGap(
        name=name,
        source=float(np.median(source)),
        target=float(np.median(target)),
        source_tenth=float(np.quantile(source, tenth)),
        target_tenth=float(np.quantile(target, tenth)),
        effect=effect,
        auc=float(roc_auc_score(domains, np.concatenate([source, target]))),
        worse=side,
    )


def _compress_tails(table: np.ndarray) -> np.ndarray:
    """Compress long tails, such as those of sharpness and file size, for linear models."""
    return np.sign(table) * np.log1p(np.abs(table) * 10)
