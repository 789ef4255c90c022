"""Confident learning: how many labels are wrong, and of which class the images really are.

The method rather than cleanlab, which its authors maintain: these are a few lines of numpy, where
the package brings pandas and its own worker processes. The tests compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tl_plugin.evaluation.intervals import RESAMPLES, Estimate, percentile_estimate


@dataclass(frozen=True)
class NoiseEstimate:
    """How many labels are wrong.

    Args:
        rate: Share of all labels that are wrong.
        pairs: ``(given, true)`` -> share of the images that are given the first class and belong to
            the second, for pairs that some image suggests.
    """

    rate: Estimate
    pairs: dict[tuple[int, int], Estimate]


def class_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how sure of a class the classifier is, on average, of images that are given it.

    Args:
        probabilities: ``(N, K)``, of a classifier that didn't learn from the image.
        labels: ``(N,)``, class numbers as given.

    Returns:
        ``(K,)``; infinite for a class without an image.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the most probable class among those that reach their threshold, -1 where none does.

    Args:
        probabilities: ``(N, K)``.
        thresholds: ``(K,)``, of :func:`class_thresholds`.
    """
    reached = probabilities >= thresholds - 1e-6
    best = np.where(reached, probabilities, -1).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimate how many images of each given class belong to each true one.

    Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021,
    arXiv 1911.00068: images are counted by their given class and the one that they confidently
    belong to; each row is then scaled to the number of images that are given the class.

    Args:
        probabilities: ``(N, K)``, of a classifier that didn't learn from the image.
        labels: ``(N,)``, class numbers as given.

    Returns:
        ``(K, K)``, given class by true class; adds up to N.
    """
    confident = confident_classes(probabilities, class_thresholds(probabilities, labels))
    size = probabilities.shape[1]
    cells = np.bincount((labels * size + confident)[confident >= 0], minlength=size**2)
    return _scaled(cells.reshape(size, size), np.bincount(labels, minlength=size))


def _scaled(joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    joint = joint.astype(float)
    # A class with no confident image at all: nothing speaks against its labels.
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1
    return joint / joint.sum(axis=1, keepdims=True) * counts[:, None]


def noise_estimate(probabilities: np.ndarray, labels: np.ndarray, seed: int = 0) -> NoiseEstimate:
    """Estimate the share of wrong labels, in all and by pair of classes.

    The intervals are for what other images of the same kind would give. What the classifier gets
    wrong by itself is in the estimate and not in the interval.

    Args:
        probabilities: ``(N, K)``, of a classifier that didn't learn from the image.
        labels: ``(N,)``, class numbers as given.
        seed: Of the resamples. Defaults to 0.
    """
    size = probabilities.shape[1]
    confident = confident_classes(probabilities, class_thresholds(probabilities, labels))
    # Resampling images is drawing from their cells, of which few are filled.
    cells, counts = np.unique(labels * (size + 1) + confident + 1, return_counts=True)
    given, true = cells // (size + 1), cells % (size + 1) - 1
    draws = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), RESAMPLES)
    shares = _shares(np.concatenate([counts[None], draws]), given, true)
    wrong = (given != true) & (true >= 0)
    pairs = {
        (int(given[cell]), int(true[cell])): percentile_estimate(shares[:, cell])
        for cell in np.flatnonzero(wrong)
    }
    return NoiseEstimate(percentile_estimate(shares[:, wrong].sum(axis=1)), pairs)


def _shares(counts: np.ndarray, given: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Scale the counts of the cells of each given class to the class's share of the images."""
    shares = np.zeros(counts.shape)
    for number in np.unique(given):
        own = given == number
        sure = own & (true >= 0)
        found = counts[:, sure].sum(axis=1, keepdims=True)
        whole = counts[:, own].sum(axis=1, keepdims=True)
        shares[:, sure] = counts[:, sure] / np.maximum(found, 1) * whole
    return shares / counts.sum(axis=1, keepdims=True)
