"""Measure what corruptions cost a model: accuracy by corruption and severity, and their mean error.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261, with the corruptions of
:class:`~tl_plugin.datasets.DegradeQuality`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from tl_plugin.datasets import DegradeQuality
from tl_plugin.datasets.degrade_quality import CORRUPTIONS, MAX_SEVERITY
from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.engine.loops.domain_eval_loop import evaluate
from tl_plugin.stack.messages import did_you_mean
from tl_plugin.stack.protocol import SOURCE

SUFFIX = '.corruptions.json'
SEVERITIES = tuple(range(1, MAX_SEVERITY + 1))
_METRIC = 'accuracy/top1'


@dataclass(frozen=True)
class CorruptionCurves:
    """What corruptions cost on one domain, in percent.

    Args:
        clean: Accuracy without a corruption.
        corruptions: Name -> accuracy at the severities 1 to 5.
        mean_error: Mean error over all corruptions and severities.
        mce: Mean corruption error: the errors of a corruption, in percent of those of a baseline,
            averaged over the corruptions; None without a baseline.
        relative_mce: The same of the errors beyond the clean one; None likewise, or where the
            baseline loses nothing.
    """

    clean: float
    corruptions: dict[str, list[float]]
    mean_error: float
    mce: float | None = None
    relative_mce: float | None = None

    def to_json(self) -> dict:
        """Return what :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping) -> CorruptionCurves:
        """Read a domain of a ``.corruptions.json``."""
        return cls(**content)


def corruptions_path(checkpoint: str | Path) -> Path:
    """Return where the curves of a checkpoint lie.

    >>> corruptions_path('work_dirs/a/epoch_9.pth').as_posix()
    'work_dirs/a/epoch_9.corruptions.json'
    """
    return Path(checkpoint).with_suffix(SUFFIX)


def check_corruptions(names: Sequence[str]) -> list[str]:
    """Return the corruptions to measure: those named, or all.

    Raises:
        ValueError: If one isn't known.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(
                f'no corruption {name!r}; there are {", ".join(CORRUPTIONS)}.'
                + did_you_mean(name, CORRUPTIONS)
            )
    return list(names or CORRUPTIONS)


def measure_curves(
    runner: Runner,
    names: Sequence[str],
    baseline: Mapping[str, CorruptionCurves] | None = None,
    seed: int = 0,
    advance: Callable[[], Any] = lambda: None,
) -> dict[str, CorruptionCurves]:
    """Evaluate a model on its test images under each corruption at each severity.

    Images are corrupted as they are read, before the pipeline resizes them. The same image is
    corrupted alike for every model.

    Args:
        runner: After its test, so that the weights are loaded. Its loaders have no persistent
            workers, which would go on with the pipeline that they were started with.
        names: Of corruptions.
        baseline: Domain -> curves of another model, for the mean corruption error. Defaults to
            None.
        seed: Of the corruptions. Defaults to 0.
        advance: Called after each evaluation.

    Returns:
        Domain -> curves; domains without labelled images are left out.

    Raises:
        ValueError: If no domain's accuracy is measured, or the baseline lacks a corruption.
    """
    clean = _accuracies(runner)
    if not clean:
        raise ValueError(
            "corruptions are compared by accuracy, and this config's test measures none "
            f'({_METRIC}): set test_evaluator=dict(type="Accuracy"), and give the test images '
            'labels'
        )
    found: dict[str, dict[str, list[float]]] = {domain: {} for domain in clean}
    for name in names:
        for severity in SEVERITIES:
            with corrupted(runner.test_loop, DegradeQuality([name], severity, seed=seed)):
                now = _accuracies(runner)
            for domain in clean:
                found[domain].setdefault(name, []).append(now[domain])
            advance()
    return {
        domain: summarise(clean[domain], curves, (baseline or {}).get(domain))
        for domain, curves in found.items()
    }


def summarise(
    clean: float, curves: Mapping[str, Sequence[float]], baseline: CorruptionCurves | None = None
) -> CorruptionCurves:
    """Compute the mean errors of curves.

    Args:
        clean: Accuracy without a corruption, in percent.
        curves: Corruption -> accuracy by severity.
        baseline: Of another model. Defaults to None.

    Raises:
        ValueError: If the baseline lacks a corruption.

    Example:
        >>> ours = summarise(90, dict(blur=[80, 60]))
        >>> ours.mean_error, summarise(95, dict(blur=[90, 80]), ours).mce
        (30.0, 50.0)
    """
    errors = {name: sum(100 - value for value in curve) for name, curve in curves.items()}
    count = sum(map(len, curves.values()))
    plain = CorruptionCurves(
        float(clean),
        {name: [round(float(value), 3) for value in curve] for name, curve in curves.items()},
        round(sum(errors.values()) / count, 3),
    )
    if baseline is None:
        return plain
    lacking = [name for name in curves if name not in baseline.corruptions]
    if lacking:
        raise ValueError(
            f'the baseline was not measured under {", ".join(lacking)}: measure it with the same '
            '--corruptions'
        )
    theirs = {name: sum(100 - v for v in baseline.corruptions[name]) for name in curves}
    beyond = {
        name: (
            errors[name] - len(curve) * (100 - clean),
            theirs[name] - len(curve) * (100 - baseline.clean),
        )
        for name, curve in curves.items()
    }
    return CorruptionCurves(
        plain.clean,
        plain.corruptions,
        plain.mean_error,
        _mean_ratio((errors[name], theirs[name]) for name in curves),
        _mean_ratio(beyond.values()),
    )


def _mean_ratio(pairs: Iterable[tuple[float, float]]) -> float | None:
    pairs = list(pairs)
    if any(theirs <= 0 for _, theirs in pairs):
        return None  # a baseline without errors can't be divided by
    return round(100 * sum(ours / theirs for ours, theirs in pairs) / len(pairs), 3)


@contextmanager
def corrupted(loop: Any, transform: Any) -> Iterator[None]:
    """Apply a transform to the images of a test loop, right after they are read.

    Args:
        loop: A test loop, over one domain or several.
        transform: On ``dict(img=..., img_path=...)``.
    """
    changed = []
    for loader in _loaders(loop).values():
        for dataset in inner_datasets(loader.dataset):
            steps = dataset.pipeline.transforms
            loads = [type(step).__name__.startswith('LoadImage') for step in steps]
            place = loads.index(True) + 1 if True in loads else 0
            steps.insert(place, transform)
            changed.append((steps, place))
    try:
        yield
    finally:
        for steps, place in reversed(changed):
            del steps[place]


def _loaders(loop: Any) -> dict[str, Any]:
    domains = getattr(loop, 'domains', None)
    if domains is None:
        return {SOURCE: loop.dataloader}
    return {name: loader for name, (loader, _) in domains.items()}


def _accuracies(runner: Runner) -> dict[str, float]:
    """Return the accuracy of each domain that has one, in percent."""
    found = evaluate(runner, runner.test_loop)
    names = _loaders(runner.test_loop)
    several = getattr(runner.test_loop, 'domains', None) is not None
    keys = {name: f'{name}/{_METRIC}' if several else _METRIC for name in names}
    return {name: float(found[key]) for name, key in keys.items() if key in found}
