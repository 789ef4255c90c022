"""What a network's features of known images look like, without the images: to spot strange ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Directions that are kept, those in which the images differ most.
COMPONENTS = 32
#: Share of the known images that lie nearer than what counts as unlike them.
USUAL = 0.99
_LEAST_IMAGES_A_COMPONENT = 8


@dataclass(frozen=True)
class FeatureReference:
    """Centres of classes in whitened features.

    Args:
        centre: Mean of all features, (D,).
        projection: From centred features to whitened ones, (C, D).
        classes: Centres of the classes that had images, (K', C).
        usual: Distance within which :data:`USUAL` of the known images lie.
    """

    centre: np.ndarray
    projection: np.ndarray
    classes: np.ndarray
    usual: float

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return the Mahalanobis distance of each image from the nearest class, per direction.

        Args:
            features: (N, D).

        Returns:
            (N,), about 1 for images as those of the reference.
        """
        points = (features - self.centre) @ self.projection.T
        gaps = ((points[:, None, :] - self.classes[None]) ** 2).sum(2)
        return np.sqrt(gaps.min(1) / len(self.projection))

    def to_json(self) -> dict:
        """Return what JSON can hold, in six digits."""
        arrays = {
            name: np.array([float(f'{value:.6g}') for value in array.ravel()])
            .reshape(array.shape)
            .tolist()
            for name, array in (
                ('centre', self.centre),
                ('projection', self.projection),
                ('classes', self.classes),
            )
        }
        return {**arrays, 'usual': float(self.usual)}

    @classmethod
    def from_json(cls, found: dict) -> FeatureReference:
        """Read what :meth:`to_json` gave."""
        names = ('centre', 'projection', 'classes')
        return cls(*(np.array(found[name], dtype=np.float32) for name in names), found['usual'])


def fit_reference(
    features: np.ndarray, labels: np.ndarray, components: int = COMPONENTS
) -> FeatureReference | None:
    """Fit the centres of classes and the spread around them, one for all classes.

    The distance of Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
    Samples and Adversarial Attacks", NeurIPS 2018, arXiv 1807.03888, on principal components.
    ``usual`` is measured on images that the fit didn't see, in two halves.

    Args:
        features: (N, D), finite.
        labels: Classes, (N,); -1 for unknown ones, which are left out.
        components: At most so many; an eighth of the images bounds them too. Defaults to 32.

    Returns:
        None for fewer than 16 labelled images.
    """
    features, labels = features[labels >= 0], labels[labels >= 0]
    if len(features) < 2 * _LEAST_IMAGES_A_COMPONENT:
        return None
    held_out = []
    for half in (0, 1):
        part = np.arange(len(features)) % 2 == half
        # A class may have all its images in one half.
        fitted = _fit(features[part], labels[part], components)
        known = ~part & np.isin(labels, labels[part])
        held_out.append(fitted.distances(features[known]))
    usual = float(np.quantile(np.concatenate(held_out), USUAL))
    whole = _fit(features, labels, components)
    return FeatureReference(whole.centre, whole.projection, whole.classes, usual)


def _fit(features: np.ndarray, labels: np.ndarray, components: int) -> FeatureReference:
    centre = features.mean(0)
    points = (features - centre).astype(np.float64)
    count = min(components, points.shape[1], max(len(points) // _LEAST_IMAGES_A_COMPONENT, 1))
    directions = np.linalg.svd(points, full_matrices=False)[2][:count]
    points = points @ directions.T
    names, numbers = np.unique(labels, return_inverse=True)
    means = np.stack([points[numbers == number].mean(0) for number in range(len(names))])
    within = points - means[numbers]
    covariance = within.T @ within / max(len(points) - len(names), 1)
    # A share of the mean variance keeps directions apart in which no class varies.
    covariance += np.eye(count) * (1e-3 * np.trace(covariance) / count + 1e-12)
    values, vectors = np.linalg.eigh(covariance)
    whitening = vectors / np.sqrt(values)
    projection = (directions.T @ whitening).T
    arrays = (centre, projection, means @ whitening)
    return FeatureReference(*(array.astype(np.float32) for array in arrays), usual=0.0)
