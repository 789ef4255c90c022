"""Which image faults tell the domains apart, and how much of the gap they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.datasets.image_quality import STATISTICS, Statistic

from .domain_gap import domain_accuracy, domain_scores
from .estimates import Estimate, estimate, resampled

#: What the scan adds to the statistics of the pixels.
LABELS = {
    **STATISTICS,
    'bits_per_pixel': Statistic(
        'file size', 'bits a pixel', 'low', 'Small JPEG files have lost detail to compression.'
    ),
}
#: What a degradation of the source can bring about, with the side that it moves to. That a target
#: is brighter or more colourful lies in its scenes and style, and no degradation makes it so.
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
        source_tenth: What the worst tenth of the source is beyond: a fault of some images moves the
            mean and not the median. The highest tenth where no side is worse.
        target_tenth: Likewise of the target.
        effect: Hedges' g: the difference of the means (target minus source) in standard deviations.
            0.2 is small, 0.5 medium, 0.8 large.
        auc: Chance that a target image has a higher value than a source image, 0 to 1.
        worse: Whether all of the interval is on the side that is a fault; None where neither side
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
        explained_by_faults: Likewise by those statistics alone in which the target is worse in a
            way that degrading the source can bring about.
    """

    statistics: tuple[StatisticGap, ...]
    domain_accuracy: Estimate
    explained: float | None = None
    explained_by_faults: float | None = None

    def faults(self, smallest: float = 0.2) -> list[StatisticGap]:
        """The statistics in which the target is worse in a way that degrading can bring about.

        Args:
            smallest: Effect from which on a difference counts. Defaults to 0.2, a small one.
        """
        return [
            item
            for item in self.statistics
            if item.effect.value * DEGRADED.get(item.name, 0) >= smallest
        ]


def quality_table(qualities: Sequence[dict[str, float]]) -> tuple[np.ndarray, list[str]]:
    """One row an image of the statistics that all images have."""
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
        domain_accuracy=domain_accuracy(*map(_spread_out, parts), rng),
    )


def explained_by_quality(
    quality: np.ndarray, source: np.ndarray, target: np.ndarray, seed: int = 0
) -> float:
    """How much of what tells the domains apart in the features is image quality.

    Args:
        quality: ``(N + M, statistics)``, in the order of the features.
        source: Features ``(N, D)``.
        target: ``(M, D)``.
        seed: Of the folds.

    Returns:
        Cross-validated R² of a ridge regression of the domain score on quality, 0 to 1.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not quality.shape[1]:
        return 0.0
    scores = domain_scores(source, target, np.random.default_rng(seed))
    regression = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    folds = KFold(5, shuffle=True, random_state=seed)
    predicted = cross_val_predict(regression, _spread_out(quality), scores, cv=folds)
    rest = ((scores - predicted) ** 2).sum() / max(((scores - scores.mean()) ** 2).sum(), 1e-12)
    return float(np.clip(1 - rest, 0, 1))


def hedges_g(source: np.ndarray, target: np.ndarray) -> float:
    """Difference of the means over the pooled standard deviation, corrected for small samples.

    Hedges, "Distribution Theory for Glass's Estimator of Effect Size", J. Educational Statistics
    1981. 0 where nothing varies and the means are equal.
    """
    return float(_effects(source, target, np.ones((1, len(source))), np.ones((1, len(target))))[0])


def _statistic(
    name: str, source: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> StatisticGap:
    from sklearn.metrics import roc_auc_score

    effects = _effects(source, target, resampled(len(source), rng), resampled(len(target), rng))
    value = hedges_g(source, target)
    effect = estimate(value, effects)
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


def _effects(
    source: np.ndarray, target: np.ndarray, source_weights: np.ndarray, target_weights: np.ndarray
) -> np.ndarray:
    """Hedges' g of many weightings."""
    counts = len(source), len(target)
    means, squares = [], []
    for values, weights in ((source, source_weights), (target, target_weights)):
        centre = values.mean()
        mean = weights @ (values - centre) / len(values)
        means.append(mean + centre)
        squares.append(weights @ (values - centre) ** 2 - len(values) * mean**2)
    freedom = sum(counts) - 2
    # Bounds the effect where a statistic is a constant: a thousand standard deviations say enough.
    scale = max(abs(source).max(), abs(target).max(), 1e-12)
    deviation = np.sqrt(np.maximum(squares[0] + squares[1], 0) / freedom)
    difference = means[1] - means[0]
    return (1 - 3 / (4 * freedom - 1)) * difference / np.maximum(deviation, 1e-3 * scale)


def _spread_out(table: np.ndarray) -> np.ndarray:
    """Bring long tails in, as those of sharpness and file size, which linear models don't like."""
    return np.sign(table) * np.log1p(np.abs(table) * 10)
