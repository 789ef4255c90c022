"""Fit corruptions so that degraded source images have the image quality of the target.

No label is read. Differences of content can't be matched, and corruptions that no statistic
measures, such as an occlusion, aren't found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import iqr, wasserstein_distance

from .degrade_quality import CORRUPTIONS, MAX_SEVERITY, DegradeQuality
from .image_quality import measure_quality

#: The smallest difference that matters, per statistic of
#: :func:`tl_plugin.datasets.image_quality.measure_quality`; corruptions move no other.
RELEVANT = {
    'sharpness': 2.0,
    'blur': 0.02,
    'noise': 0.5,
    'brightness': 0.02,
    'contrast': 0.02,
    'clipped_dark': 0.01,
    'clipped_bright': 0.01,
    'saturation': 0.02,
    'colorfulness': 2.0,
    'color_cast': 1.0,
    'blockiness': 0.05,
    'dead_pixels': 5e-4,
}
#: Ranges of severity that are tried for each corruption, with their probabilities.
_FIRST = [
    ((0.0, 1.0), 1.0),
    ((0.0, 3.0), 1.0),
    ((1.0, 3.0), 1.0),
    ((2.0, 5.0), 1.0),
    ((1.0, 5.0), 0.5),
    ((0.0, 3.0), 0.3),
]
_SEARCHED = tuple(corruption for corruption in CORRUPTIONS if corruption != 'occlusion')

Corruptions = dict


class Match(NamedTuple):
    """Corruptions that were fitted, and what they achieve.

    Attributes:
        corruptions: As :class:`DegradeQuality` takes them: name -> ``dict(severity=(low, high),
            prob=...)``; empty where none helps.
        before: Distance between the statistics of source and target, see :func:`distance`.
        after: Distance between those of the degraded source and the target.
        medians: Statistic -> medians of source, degraded source and target.
    """

    corruptions: Corruptions
    before: float
    after: float
    medians: dict[str, tuple[float, float, float]]


def match_quality(
    source: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    min_gain: float = 0.03,
    max_corruptions: int = 5,
) -> Match:
    """Find corruptions that give source images the quality of target images.

    Adds the corruption that helps most, one after the other, while it helps by ``min_gain``; then
    moves each one's range and probability while that helps. Every trial degrades the same images by
    the same random numbers.

    Args:
        source: Images, RGB or grey, uint8. 32 are enough; time grows with their number.
        target: Images of the same processing, as many or more.
        min_gain: Share of the first distance by which a further one must reduce it. Defaults to
            0.03.
        max_corruptions: Number of corruptions at most. Defaults to 5.

    Returns:
        The corruptions and the distances.

    Raises:
        ValueError: If there are fewer than 8 images of a domain.
    """
    if min(len(source), len(target)) < 8:
        raise ValueError(
            'quality is matched between distributions: expected at least 8 images of each domain, '
            f'got {len(source)} source and {len(target)} target images'
        )
    trial = _Trial(source, target)
    corruptions, best = {}, trial.before
    while len(corruptions) < max_corruptions:
        found = min(
            (
                (trial({**corruptions, name: option}), name, option)
                for name, option in _further(corruptions)
            ),
            key=lambda candidate: candidate[0],
        )
        if best - found[0] < min_gain * trial.before:
            break
        best, corruptions = found[0], {**corruptions, found[1]: found[2]}
    corruptions, best = _refine(trial, corruptions, best)
    return Match(corruptions, trial.before, best, trial.medians(corruptions))


def _further(corruptions: Corruptions) -> Iterator[tuple[str, dict]]:
    for name in _SEARCHED:
        if name not in corruptions:
            for severity, prob in _FIRST:
                yield name, dict(severity=severity, prob=prob)


def _refine(trial: _Trial, corruptions: Corruptions, best: float) -> tuple[Corruptions, float]:
    for name in list(corruptions):
        improved = True
        while improved:
            improved = False
            for option in _neighbours(corruptions[name]):
                value = trial({**corruptions, name: option})
                if value < best - 1e-3 * trial.before:
                    best, corruptions, improved = value, {**corruptions, name: option}, True
    return corruptions, best


def _neighbours(option: dict) -> Iterator[dict]:
    low, high = option['severity']
    for step in (-0.5, 0.5):
        yield {**option, 'severity': (low, float(np.clip(high + step, low, MAX_SEVERITY)))}
        yield {**option, 'severity': (float(np.clip(low + step, 0, high)), high)}
        yield {**option, 'prob': float(np.clip(option['prob'] + step / 2.5, 0.1, 1))}


class _Trial:
    """Distance to the target that corruptions of the source would leave; each is tried once."""

    def __init__(self, source: Sequence[np.ndarray], target: Sequence[np.ndarray]) -> None:
        self.images = source
        self.source, self.target = _statistics(source), _statistics(target)
        self.scales = scales(self.source, self.target)
        self.before = distance(self.source, self.target, self.scales)
        self.known: dict[str, float] = {}

    def __call__(self, corruptions: Corruptions) -> float:
        key = repr(sorted(corruptions.items()))
        if key not in self.known:
            self.known[key] = distance(self.degraded(corruptions), self.target, self.scales)
        return self.known[key]

    def degraded(self, corruptions: Corruptions) -> dict[str, np.ndarray]:
        if not corruptions:
            return self.source
        degrade = DegradeQuality(corruptions=corruptions, seed=0)
        return _statistics(
            [
                degrade.transform(dict(img=image, sample_idx=index))['img']
                for index, image in enumerate(self.images)
            ]
        )

    def medians(self, corruptions: Corruptions) -> dict[str, tuple[float, float, float]]:
        parts = self.source, self.degraded(corruptions), self.target
        return {name: tuple(float(np.median(part[name])) for part in parts) for name in RELEVANT}


def _statistics(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    found = [measure_quality(image) for image in images]
    return {name: np.array([values[name] for values in found]) for name in RELEVANT}


def scales(source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the unit of each statistic: its interquartile range, at least what is relevant."""
    return {
        name: max(float(iqr(np.concatenate([source[name], target[name]]))), least)
        for name, least in RELEVANT.items()
    }


def distance(
    source: dict[str, np.ndarray], target: dict[str, np.ndarray], units: dict[str, float]
) -> float:
    """Average the Wasserstein distances between the distributions of all statistics.

    Args:
        source: Statistic -> values of images.
        target: The same of other images, of any number.
        units: Statistic -> unit of its distance, see :func:`scales`.
    """
    parts = [wasserstein_distance(source[name], target[name]) / units[name] for name in units]
    return float(np.mean(parts))
