"""What a diagnosis keeps of the target for later, without its images: to notice when it drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tl_plugin.evaluation.intervals import Estimate, bootstrap_estimate

from .class_gap import FEWEST

#: Images whose statistics and features are kept.
KEPT = 1000
#: Directions of the features, those in which the source's images differ most.
COMPONENTS = 32
_C = 10


@dataclass(frozen=True)
class KnownFeatures:
    """A network's features of the target, and a classifier of the source on them.

    Args:
        backbone: See :func:`tl_plugin.intake.backbone_choice.choose_model`.
        checkpoint: Its weights, '' for its own.
        image_size: Side of the images; None for the model's own.
        own_pipelines: Whether the data sets of a config read the images, by pipelines of their own.
        centre: Mean of the source's features, (D,).
        projection: From centred features to whitened ones of the source, (C, D).
        points: Whitened features of target images, (N, C).
        classes: Names of the classes of the classifier; () where the source has too few labels.
        weights: Of the classifier, (K, C).
        bias: (K,).
        source_accuracy: Of the classifier on source images that it didn't learn from; None without
            one.
        source_confidence: Its mean confidence on them.
        probe: Whitened features of a fixed pattern, (C,): the same network gives them again.
    """

    backbone: str
    checkpoint: str
    image_size: int | None
    own_pipelines: bool
    centre: np.ndarray
    projection: np.ndarray
    points: np.ndarray
    classes: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray
    source_accuracy: float | None
    source_confidence: float | None
    probe: np.ndarray

    def project(self, features: np.ndarray) -> np.ndarray:
        """Whiten features, (N, D), to (N, C)."""
        return (features - self.centre) @ self.projection.T

    def probabilities(self, points: np.ndarray) -> np.ndarray:
        """Return the classifier's probabilities for whitened features, (N, K)."""
        logits = points @ self.weights.T + self.bias
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def expected_accuracy(self, points: np.ndarray, rng: np.random.Generator) -> Estimate | None:
        """Estimate the classifier's accuracy without labels by the difference of confidences.

        Guillory et al., "Predicting with Confidence on Unseen Distributions", ICCV 2021, arXiv
        2107.03315: accuracy falls by as much as the mean confidence does.

        Args:
            points: Whitened features, (N, C).
            rng: Of the resamples.
        """
        if self.source_accuracy is None or len(points) < 2:
            return None
        shift = self.source_accuracy - self.source_confidence
        confidences = self.probabilities(points).max(1)

        def accuracy(values: np.ndarray, axis: int) -> np.ndarray:
            return np.clip(values.mean(axis) + shift, 0, 1)

        return bootstrap_estimate(accuracy, confidences, rng=rng, lowest=0, highest=1)


@dataclass(frozen=True)
class DriftReference:
    """The target as it was.

    Args:
        images: Files in all.
        unreadable: Of them.
        statistics: Names of the image statistics.
        quality: Of some images, one row each.
        features: None where no backbone was given.
    """

    images: int
    unreadable: int
    statistics: tuple[str, ...]
    quality: np.ndarray
    features: KnownFeatures | None = None

    @classmethod
    def from_json(cls, found: dict) -> DriftReference:
        """Read what ``findings.json`` holds under ``reference``."""
        features = found['features']
        if features is not None:
            kinds = {item.name: item.type for item in fields(KnownFeatures)}
            arrays = {name for name, kind in kinds.items() if kind == 'np.ndarray'}
            values = {
                name: np.array(value, dtype=np.float64) if name in arrays else value
                for name, value in features.items()
            }
            values['classes'] = tuple(values['classes'])
            features = KnownFeatures(**values)
        return cls(
            found['images'],
            found['unreadable'],
            tuple(found['statistics']),
            np.array(found['quality'], dtype=np.float64),
            features,
        )


def thinned(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return at most :data:`KEPT` of the rows, drawn at random."""
    return rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:KEPT])]


def fit_features(
    source: np.ndarray,
    labels: Sequence[str | None],
    target: np.ndarray,
    probe: np.ndarray,
    **about: Any,
) -> KnownFeatures:
    """Keep a target's features, in directions that the source alone defines.

    Args:
        source: Features, (N, D).
        labels: Names of the source's classes, N; None where unknown.
        target: (M, D).
        probe: Features of :func:`pattern`, (D,).
        **about: ``backbone``, ``checkpoint``, ``image_size`` and ``own_pipelines``.
    """
    centre = source.mean(0)
    _, spread, directions = np.linalg.svd(source - centre, full_matrices=False)
    count = min(COMPONENTS, max(len(source) // 8, 1), int((spread > 1e-6 * spread[0]).sum()) or 1)
    deviations = np.maximum(spread[:count] / np.sqrt(max(len(source) - 1, 1)), 1e-12)
    projection = directions[:count] / deviations[:, None]
    known = _classifier((source - centre) @ projection.T, labels)
    return KnownFeatures(
        centre=centre,
        projection=projection,
        points=thinned((target - centre) @ projection.T),
        probe=(probe - centre) @ projection.T,
        **known,
        **about,
    )


def _classifier(points: np.ndarray, labels: Sequence[str | None]) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    names = np.array([label or '' for label in labels])
    found, counts = np.unique(names[names != ''], return_counts=True)
    classes = found[counts >= FEWEST]
    if len(classes) < 2:
        empty = dict(weights=np.empty((0, points.shape[1])), bias=np.empty(0))
        return dict(classes=(), source_accuracy=None, source_confidence=None, **empty)
    known = np.isin(names, classes)
    points, names = points[known], names[known]
    classifier = LogisticRegression(C=_C / len(points) * 100, max_iter=2000)
    held_out = cross_val_predict(classifier, points, names, cv=FEWEST, method='predict_proba')
    classifier.fit(points, names)
    weights, bias = classifier.coef_, classifier.intercept_
    if len(classes) == 2:  # one row for both
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return dict(
        classes=tuple(map(str, classes)),
        weights=weights,
        bias=bias,
        source_accuracy=float((classes[held_out.argmax(1)] == names).mean()),
        source_confidence=float(held_out.max(1).mean()),
    )


def pattern(size: int = 256) -> np.ndarray:
    """Return a fixed image, (size, size, 3): waves and a gradient.

    >>> pattern(8).shape, pattern(8).dtype
    ((8, 8, 3), dtype('uint8'))
    """
    rows, columns = np.mgrid[:size, :size] / size
    channels = [np.sin(9 * rows + 5 * columns), np.cos(13 * columns), rows - columns]
    return (127.5 + 100 * np.stack(channels, axis=2)).clip(0, 255).astype(np.uint8)
