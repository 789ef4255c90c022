"""Judges of labels that never learned from the image they judge: a linear head, and neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

#: Folds of the images, and how often they are drawn.
FOLDS, REPEATS = 5, 3
#: Strengths of regularization that are tried (inverse, for features of unit mean square length).
STRENGTHS = (1.0, 10.0, 100.0)
#: Directions of the features that are kept.
DIRECTIONS = 256
#: Neighbours that are asked.
NEIGHBOURS = 10


class Neighbourhood(NamedTuple):
    """The nearest images of each image, without its own copies.

    Args:
        votes: ``(N, K)``, share of the neighbours that are given each class.
        distance: ``(N,)``, mean distance to them.
    """

    votes: np.ndarray
    distance: np.ndarray


def compact_features(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Centre features and project them on their principal components, with unit mean square length.

    Args:
        features: ``(N, D)``.
        seed: Of the randomized decomposition. Defaults to 0.

    Raises:
        ValueError: If a feature isn't finite.
    """
    from sklearn.decomposition import PCA

    if not np.isfinite(features).all():
        raise ValueError('some features are not finite: check the model and its checkpoint')
    size = min(DIRECTIONS, *features.shape)
    found = PCA(size, svd_solver='randomized', random_state=seed).fit_transform(
        features.astype(np.float64)
    )
    return (found / max(np.sqrt((found**2).sum(1).mean()), 1e-12)).astype(np.float32)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Compute class probabilities of each image by linear heads that did not learn from it.

    Logistic regression on frozen features, :data:`FOLDS` folds, drawn :data:`REPEATS` times. The
    strength of regularization is the one of :data:`STRENGTHS` with the smallest log loss on the
    labels as given, out of fold. Copies of an image are in its fold: a copy would hide that both
    are wrong.

    Args:
        features: ``(N, D)``, of :func:`compact_features`.
        labels: ``(N,)``, class numbers 0 to K - 1, each of at least :data:`FOLDS` images.
        groups: ``(N,)``, equal for copies.
        seed: Of the folds. Defaults to 0.
        advance: Called with 1 after each head.

    Returns:
        ``(N, K)``, the mean over the repeats.
    """
    from threadpoolctl import threadpool_limits

    size = int(labels.max()) + 1
    rng = np.random.default_rng(seed)
    # So small problems gain nothing by threads, which wait for each other.
    with threadpool_limits(1):
        first = assign_folds(labels, groups, rng)
        tried = {c: _fold_by_fold(features, labels, first, size, c, advance) for c in STRENGTHS}
        rows = np.arange(len(labels))
        losses = {c: -np.log(np.maximum(p[rows, labels], 1e-12)).mean() for c, p in tried.items()}
        best = min(losses, key=losses.get)
        found = [tried[best]]
        for _ in range(REPEATS - 1):
            folds = assign_folds(labels, groups, rng)
            found.append(_fold_by_fold(features, labels, folds, size, best, advance))
    return np.mean(found, axis=0)


#: Linear heads that :func:`out_of_fold` fits.
HEADS = FOLDS * (len(STRENGTHS) + REPEATS - 1)


def assign_folds(labels: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Divide images into folds with every class in proportion; copies share a fold.

    Args:
        labels: ``(N,)``.
        groups: ``(N,)``, equal for copies.
        rng: Of the order.
    """
    leaders, where = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(labels))
    of_group = np.empty(len(leaders), dtype=int)
    of_group[where[order]] = order  # some image of each group
    kinds = labels[of_group]
    shuffled = rng.permutation(len(leaders))
    shuffled = shuffled[np.argsort(kinds[shuffled], kind='stable')]
    folds = np.empty(len(leaders), dtype=int)
    folds[shuffled] = np.arange(len(leaders)) % FOLDS
    return folds[where]


def _fold_by_fold(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    size: int,
    strength: float,
    advance: Callable[[int], None],
) -> np.ndarray:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    found = np.zeros((len(labels), size))
    for fold in range(FOLDS):
        held_out = folds == fold
        learned = labels[~held_out]
        if held_out.any():
            with warnings.catch_warnings():
                # Where it stops doesn't matter to the third digit.
                warnings.simplefilter('ignore', ConvergenceWarning)
                head = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
                head.fit(features[~held_out], learned)
            found[np.ix_(held_out, head.classes_)] = head.predict_proba(features[held_out])
        advance(1)
    return found


def ask_neighbours(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Neighbourhood:
    """Ask the nearest images of each image for their label, by the angle between features.

    Args:
        features: ``(N, D)``, of :func:`compact_features`.
        labels: ``(N,)``, class numbers.
        groups: ``(N,)``, equal for copies, which aren't asked.
    """
    from sklearn.neighbors import NearestNeighbors

    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    # As many more as the largest group of copies has, which may all be nearer.
    wanted = NEIGHBOURS + int(np.unique(groups, return_counts=True)[1].max())
    wanted = min(wanted, len(features), NEIGHBOURS + 50)
    search = NearestNeighbors(n_neighbors=wanted, algorithm='brute').fit(unit)
    distances, nearest = search.kneighbors(unit)
    others = groups[nearest] != groups[:, None]
    asked = others & (others.cumsum(axis=1) <= NEIGHBOURS)
    count = np.maximum(asked.sum(axis=1), 1)
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    rows = np.broadcast_to(np.arange(len(labels))[:, None], nearest.shape)
    np.add.at(votes, (rows[asked], labels[nearest[asked]]), 1)
    return Neighbourhood(votes / count[:, None], (distances * asked).sum(axis=1) / count)
