"""Measure what corruptions cost a model: accuracy by corruption and severity, and their mean error.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, arXiv 1903.12261, with the corruptions of
:class:`~tl_plugin.datasets.DegradeQuality`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from tl_plugin.datasets import DegradeQuality
from tl_plugin.datasets.degrade_quality import CORRUPTIONS, MAX_SEVERITY
from tl_plugin.datasets.wrappers import inner_datasets
from tl_plugin.engine.loops.domain_eval_loop import evaluate
from tl_plugin.reliability.checkpoints import checkpoint_weights
from tl_plugin.reliability.files import read_json, write_json, write_whole
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.reporting.plots import plot_corruptions
from tl_plugin.reporting.progress import progress
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

    @classmethod
    def from_json(cls, content: Mapping) -> CorruptionCurves:
        """Read a domain of a ``.corruptions.json``."""
        return cls(**content)


@dataclass(frozen=True)
class Curves:
    """What corruptions cost a checkpoint, the content of its ``.corruptions.json``.

    Args:
        checkpoint: Name of its file.
        weights: Their fingerprint; '' in a file that an earlier version wrote.
        domains: Domain -> curves.
        baseline: Name of the model whose errors the mean corruption error is in percent of; None
            without one.
    """

    checkpoint: str
    weights: str
    domains: dict[str, CorruptionCurves]
    baseline: str | None = None


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


def allow_corruptions(cfg: Config) -> None:
    """Let the loaders of a config's test start again for each corruption, in place."""
    for loader in (cfg.test_dataloader, *(cfg.test_cfg.get('dataloaders') or {}).values()):
        # Such workers would go on with the pipeline that they were started with.
        loader['persistent_workers'] = False


def write_curves(
    runner: Runner,
    checkpoint: str | Path,
    names: Sequence[str],
    baseline: Curves | None = None,
    baseline_name: str | None = None,
) -> Curves:
    """Measure a checkpoint under corruptions; write the curves and a picture of each domain's.

    Args:
        runner: After the test of the checkpoint, of a config that :func:`allow_corruptions` saw.
        checkpoint: The curves are written beside it, see :func:`corruptions_path`.
        names: Of corruptions.
        baseline: Another model's, for the mean corruption error. Defaults to None.
        baseline_name: What that model is called. Defaults to None.

    Raises:
        ValueError: If no domain's accuracy is measured, or the baseline lacks a corruption.
    """
    for one in baseline.domains.values() if baseline else ():
        _check_comparable(names, one)  # before the work
    with progress('Corruptions', len(names) * len(SEVERITIES)) as advance:
        found = measure_curves(runner, names, advance=lambda: advance(1))
    weights = fingerprint(checkpoint_weights(checkpoint)[0])
    curves = Curves(Path(checkpoint).name, weights, found)
    if baseline is not None:
        curves = compare(curves, baseline, baseline_name)
    path = corruptions_path(checkpoint)
    write_json(path, asdict(curves))
    for domain, one in found.items():
        picture = path.with_suffix(f'.{domain}.png')
        write_whole(picture, plot_corruptions(one.corruptions, one.clean, domain))
    return curves


def compare(curves: Curves, baseline: Curves, name: str | None) -> Curves:
    """Return curves with mean corruption errors in percent of another model's.

    Args:
        curves: Of a checkpoint.
        baseline: Of the other one.
        name: What that model is called.
    """
    domains = {
        domain: summarise(one.clean, one.corruptions, baseline.domains.get(domain))
        for domain, one in curves.domains.items()
    }
    return replace(curves, domains=domains, baseline=name)


def curves_in_words(curves: Curves) -> list[str]:
    """Return what corruptions cost on each domain, in a sentence each."""
    found = []
    for domain, one in curves.domains.items():
        against = ''
        if one.mce is not None:
            against = f', over corruptions {one.mce:.1f}% of the errors of {curves.baseline} (mCE)'
        count = len(one.corruptions)
        found.append(
            f'{domain}: accuracy {one.clean:.1f}%, mean error under {count} '
            f'corruption{"s" if count > 1 else ""} {one.mean_error:.1f}%{against}'
        )
    return found


def read_curves(path: str | Path) -> Curves:
    """Read a ``.corruptions.json``.

    Raises:
        FileNotFoundError: If there is none.
    """
    content = read_json(path)
    if content is None:
        raise FileNotFoundError(
            f'no curves at {Path(path).absolute()}: tools/test.py CONFIG CHECKPOINT --corruptions '
            'writes them beside the checkpoint'
        )
    domains = {name: CorruptionCurves.from_json(one) for name, one in content['domains'].items()}
    return Curves(**{'weights': '', **content, 'domains': domains})


def curves_of(checkpoint: str | Path) -> Curves | None:
    """Return the curves that lie beside a checkpoint; None where there are none of its weights."""
    path = corruptions_path(checkpoint)
    if not path.is_file():
        return None
    found = read_curves(path)
    if found.weights != fingerprint(checkpoint_weights(checkpoint)[0]):
        print_log(
            f'{path} was measured with other weights than those of {checkpoint} and is left out: '
            'run tools/test.py CONFIG CHECKPOINT --corruptions again',
            logger='current',
            level=logging.WARNING,
        )
        return None
    return found


def measure_curves(
    runner: Runner,
    names: Sequence[str],
    seed: int = 0,
    advance: Callable[[], Any] = lambda: None,
    corruption: Callable[[str, int], Any] | None = None,
) -> dict[str, CorruptionCurves]:
    """Evaluate a model on its test images under each corruption at each severity.

    Images are corrupted as they are read, before the pipeline resizes them. The same image is
    corrupted alike for every model.

    Args:
        runner: After its test, so that the weights are loaded. Its loaders have no persistent
            workers, which would go on with the pipeline that they were started with.
        names: Of corruptions.
        seed: Of the corruptions. Defaults to 0.
        advance: Called after each evaluation.
        corruption: From a name and a severity to a transform. Defaults to None, that of
            ``DegradeQuality``.

    Returns:
        Domain -> curves; domains without labelled images are left out.

    Raises:
        ValueError: If no domain's accuracy is measured.
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
            if corruption is None:
                transform = DegradeQuality([name], severity, seed=seed)
            else:
                transform = corruption(name, severity)
            with corrupted(runner.test_loop, transform):
                now = _accuracies(runner)
            for domain in clean:
                found[domain].setdefault(name, []).append(now[domain])
            advance()
    return {domain: summarise(clean[domain], curves) for domain, curves in found.items()}


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
    _check_comparable(curves, baseline)
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


def _check_comparable(names: Iterable[str], baseline: CorruptionCurves) -> None:
    lacking = [name for name in names if name not in baseline.corruptions]
    if lacking:
        raise ValueError(
            f'the baseline was not measured under {", ".join(lacking)}: measure it with the same '
            '--corruptions'
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
