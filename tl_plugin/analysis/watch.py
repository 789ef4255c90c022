"""Has the target drifted since a diagnosis: tests with intervals, and a verdict for a cron job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tl_plugin.evaluation.intervals import Estimate, bootstrap_estimate, share_estimate

from .findings import _plain
from .quality_gap import DEGRADED, LABELS, hedges_g
from .reference import DriftReference, KnownFeatures, thinned

#: Chance of an alarm where nothing has changed.
LEVEL = 0.01
#: Fewer readable images show no drift but a huge one.
FEWEST = 20
#: What asks for action: so many points of expected accuracy lost, for certain; or, where no
#: features say so, an image statistic worse by so many standard deviations.
ACCURACY_LOST, LARGE = 0.05, 0.8
AS_BEFORE, DRIFTED, ACT = 'as before', 'drifted', 'act'
#: Verdict -> exit code; 1 and 2 are those of errors.
EXIT_CODES = {AS_BEFORE: 0, DRIFTED: 3, ACT: 4}


@dataclass(frozen=True)
class Drift:
    """One quantity, then and now.

    Args:
        kind: 'files', 'quality', 'features' or 'classes'.
        name: Of the quantity.
        before: Its mean in the reference.
        now: Its mean in the new images.
        change: In standard deviations, with its interval; of shares in points.
        p_value: Of the two-sample test.
        drifted: Whether that is too small for chance, among all tests together.
    """

    kind: str
    name: str
    before: float
    now: float
    change: Estimate
    p_value: float
    drifted: bool


@dataclass(frozen=True)
class Watch:
    """What changed since the diagnosis.

    Args:
        verdict: 'as before', 'drifted' or 'act'.
        reasons: Why, in sentences.
        images: New files.
        unreadable: Of them.
        drifts: All quantities, the smallest p-value first.
        expected_accuracy_before: Of the source's classifier, by the difference of confidences;
            None without features or classes.
        expected_accuracy: Likewise on the new images.
        level: Chance of an alarm where nothing has changed.
    """

    verdict: str
    reasons: tuple[str, ...]
    images: int
    unreadable: int
    drifts: tuple[Drift, ...]
    expected_accuracy_before: Estimate | None
    expected_accuracy: Estimate | None
    level: float = LEVEL

    def to_json(self) -> dict:
        """Return what JSON can hold."""
        return _plain(self)


def watch(
    reference: DriftReference,
    images: int,
    quality: Sequence[dict[str, float]],
    features: np.ndarray | None = None,
    seed: int = 0,
) -> Watch:
    """Compare new images of the target with what a diagnosis kept of it.

    Each statistic of the images, each direction of the features and each probability of the
    source's classifier is compared by the test of Kolmogorov and Smirnov, Bonferroni-corrected,
    which finds shifts as well as tests of all at once (Rabanser et al., "Failing Loudly", NeurIPS
    2019, arXiv 1810.11953); unreadable files by Fisher's exact test.

    Args:
        reference: What was kept.
        images: New files in all.
        quality: ``quality`` of those that can be read.
        features: Of those, (N, D); None where the reference has none.
        seed: Of resamples. Defaults to 0.

    Raises:
        ValueError: If there are fewer than 20 readable images.
    """
    if len(quality) < FEWEST:
        raise ValueError(
            f'{len(quality)} of {images} new images can be read: drift shows in {FEWEST} or more'
        )
    rng = np.random.default_rng(seed)
    names = [n for n in reference.statistics if all(n in one for one in quality)]
    now = _digits(thinned(np.array([[one[name] for name in names] for one in quality]), seed))
    before = _digits(reference.quality)
    columns = [reference.statistics.index(name) for name in names]
    families = {
        'files': [_files(reference, images, images - len(quality))],
        'quality': [
            _compared('quality', name, before[:, column], now[:, place], rng)
            for place, (name, column) in enumerate(zip(names, columns))
        ],
    }
    accuracies = (None, None)
    known = reference.features
    if known is not None and features is not None:
        points = thinned(known.project(features), seed)
        families['features'] = [
            _compared('features', f'direction {i + 1}', known.points[:, i], points[:, i], rng)
            for i in range(points.shape[1])
        ]
        families['classes'] = _classes(known, points, rng)
        accuracies = tuple(known.expected_accuracy(part, rng) for part in (known.points, points))
    families = {kind: found for kind, found in families.items() if found}
    drifts = [
        _judged(drift, LEVEL / len(families) / len(found))
        for found in families.values()
        for drift in found
    ]
    drifts.sort(key=lambda drift: drift.p_value)
    verdict, reasons = _verdict(drifts, *accuracies)
    unreadable = images - len(quality)
    return Watch(verdict, tuple(reasons), images, unreadable, tuple(drifts), *accuracies)


def _digits(values: np.ndarray) -> np.ndarray:
    """Round as JSON does: shares of pixels are equal or not, and the test counts both."""
    return np.array([float(f'{value:.6g}') for value in values.ravel()]).reshape(values.shape)


def _judged(drift: Drift, level: float) -> Drift:
    values = {**vars(drift), 'drifted': bool(drift.p_value < level)}
    return Drift(**values)


def _files(reference: DriftReference, images: int, unreadable: int) -> Drift:
    from scipy.stats import fisher_exact

    counts = (reference.unreadable, reference.images), (unreadable, images)
    p_value = fisher_exact([[bad, total - bad] for bad, total in counts])[1]
    before, now = (share_estimate(*pair) for pair in counts)
    change = Estimate(now.value - before.value, now.low - before.high, now.high - before.low)
    return Drift('files', 'unreadable', before.value, now.value, change, float(p_value), False)


def _compared(
    kind: str, name: str, before: np.ndarray, now: np.ndarray, rng: np.random.Generator
) -> Drift:
    from scipy.stats import ks_2samp

    p_value = float(ks_2samp(before, now, method='asymp').pvalue)
    change = bootstrap_estimate(hedges_g, before, now, rng=rng)
    return Drift(kind, name, float(before.mean()), float(now.mean()), change, p_value, False)


def _classes(known: KnownFeatures, points: np.ndarray, rng: np.random.Generator) -> list[Drift]:
    """Compare the probabilities of the classes, of the most frequent ones if they are many."""
    if not known.classes:
        return []
    before, now = known.probabilities(known.points), known.probabilities(points)
    shown = np.argsort(-before.mean(0))[:COMPARED]
    found = [
        _compared('classes', known.classes[label], before[:, label], now[:, label], rng)
        for label in shown
    ]
    return [*found, _compared('classes', 'confidence', before.max(1), now.max(1), rng)]


#: Classes whose probabilities are compared.
COMPARED = 32


def _verdict(
    drifts: Sequence[Drift], before: Estimate | None, now: Estimate | None
) -> tuple[str, list[str]]:
    found = [drift for drift in drifts if drift.drifted]
    if not found:
        return AS_BEFORE, [f'None of {len(drifts)} quantities has changed beyond chance.']
    reasons = [_sentence(drift) for drift in found[:8]]
    if len(found) > 8:
        reasons.append(f'{len(found) - 8} more of {len(drifts)} quantities have changed.')
    if before is not None and now is not None:
        certain = before.low - now.high
        if certain > ACCURACY_LOST:
            reasons.insert(0, f'Expected accuracy fell from {before.value:.0%} to {now.value:.0%}.')
            return ACT, reasons
    files = [drift for drift in found if drift.kind == 'files' and drift.now > drift.before]
    worse = [drift for drift in found if _much_worse(drift)]
    return (ACT if files or worse else DRIFTED), reasons


def _much_worse(drift: Drift) -> bool:
    if drift.kind != 'quality':
        return False
    side = DEGRADED.get(drift.name, 0)
    return min(side * drift.change.low, side * drift.change.high) >= LARGE if side else False


def _sentence(drift: Drift) -> str:
    what = LABELS[drift.name].label if drift.kind == 'quality' else drift.name
    return (
        f'{drift.kind}, {what}: {drift.before:.3g} before, {drift.now:.3g} now, a change of '
        f'{drift.change.value:+.2f} ({drift.change.low:+.2f} to {drift.change.high:+.2f}).'
    )
