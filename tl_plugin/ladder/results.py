"""Collect what the runs of a climb measured, the content of results.json."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tl_plugin
from tl_plugin.evaluation.choice import vote
from tl_plugin.evaluation.expected_accuracy import ExpectedAccuracy
from tl_plugin.evaluation.intervals import accuracy_interval, interval_method
from tl_plugin.evaluation.shared_accuracy import LEAST_MODELS, shared_accuracy
from tl_plugin.reliability.files import read_json
from tl_plugin.stack.check import module_version
from tl_plugin.stack.protocol import TARGET

from .capacity import threads_of_a_run
from .jobs import Job
from .recommend import BASELINE, TARGET_ACCURACY, TARGET_VOTE, recommend, why_none
from .records import DomainResult, FailedRun, LadderResults, RungResult
from .run_records import DOMAINS, NOT_ESTIMATED, KeptLayers, Predictions, RunResult
from .run_rung import OUTPUTS_NAME, PREDICTIONS_JSON

RESULTS_NAME = 'results.json'


def collect(
    jobs: Sequence[Job],
    failures: Sequence[FailedRun],
    config: str,
    budget_source: float | None = None,
    not_climbed: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> LadderResults:
    """Collect the results of all finished runs.

    Args:
        jobs: All runs of the climb.
        failures: Runs that gave no result.
        config: Name of the base config of the ladder.
        budget_source: See :func:`~tl_plugin.ladder.recommend.recommend`.
        not_climbed: Rungs that the climb stopped before -> why.
        left_out: Rungs that the config has no data for -> what is missing.
        notes: On the data, in sentences.
    """
    rungs, ahead = voted(with_expected(_compared(summaries(jobs))))
    found = recommend(rungs, budget_source, ahead)
    return LadderResults(
        config=config,
        date=datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        commit=commit(),
        versions=versions(),
        machine=machine(),
        rungs=rungs,
        recommendation=found,
        no_recommendation=None if found else why_none(rungs),
        not_climbed=dict(not_climbed or {}),
        left_out=dict(left_out or {}),
        failures=list(failures),
        notes=list(notes),
    )


def voted(rungs: Sequence[RungResult]) -> tuple[list[RungResult], dict[str, float]]:
    """Let the rungs' outputs vote where the target's validation images have no labels.

    Args:
        rungs: With the folders of their runs.

    Returns:
        The rungs, with the vote among their validation metrics, one value for each seed, and the
        share of resamples in which each of them is ahead of ``source_only``. As they were, and
        nothing, where labels say more or outputs of a rung's seed are missing.
    """
    if any(rung.validation.get(TARGET_ACCURACY) for rung in rungs):
        return list(rungs), {}
    votes = []
    for index in range(min((len(rung.folders) for rung in rungs), default=0)):
        models = _outputs_of_all(rungs, index, 'target.log_probabilities')
        if models is None:
            return list(rungs), {}
        votes.append(vote(models))
    if not votes:
        return list(rungs), {}
    found = []
    for rung in rungs:
        values = [round(one.scores[rung.name], 4) for one in votes]
        found.append(replace(rung, validation={**rung.validation, TARGET_VOTE: values}))
    ahead = {
        rung.name: round(statistics.fmean(one.ahead(rung.name, BASELINE) for one in votes), 4)
        for rung in rungs
        if BASELINE in votes[0].scores
    }
    return found, ahead


def with_expected(rungs: Sequence[RungResult]) -> list[RungResult]:
    """Estimate each rung's accuracy on the target's test images from how far all rungs agree.

    Args:
        rungs: With the folders of their runs.

    Returns:
        The rungs; with their own estimates, where they are too few or outputs of one are missing.
    """
    seeds = min((len(rung.folders) for rung in rungs), default=0)
    outputs = [_outputs_of_all(rungs, index, 'test.probabilities') for index in range(seeds)]
    if not outputs or None in outputs or len(rungs) < LEAST_MODELS:
        return list(rungs)
    estimates = [shared_accuracy(models) for models in outputs]
    found = []
    for rung in rungs:
        own = dict(expected_accuracy=None, expected_interval=None, no_expected_accuracy=None)
        own |= _expected([of_seed[rung.name] for of_seed in estimates])
        target = replace(rung.on(TARGET), **own)
        found.append(replace(rung, domains={**rung.domains, TARGET: target}))
    return found


def _outputs_of_all(rungs: Sequence[RungResult], index: int, name: str) -> dict[str, Tensor] | None:
    """Read an array that each rung's run of one seed kept, (N, K); None where one kept none."""
    found = {}
    for rung in rungs:
        path = Path(rung.folders[index], OUTPUTS_NAME)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            found[rung.name] = torch.from_numpy(arrays[name])
    return found if len({rows.shape for rows in found.values()}) == 1 else None


def summaries(jobs: Sequence[Job]) -> list[RungResult]:
    """Return the rows of all rungs that have a finished run, in the order of the jobs."""
    by_rung: dict[str, list[tuple[Job, RunResult]]] = {}
    for job in jobs:
        if result := job.result():
            by_rung.setdefault(job.rung.name, []).append((job, result))
    return [summarise(*zip(*finished)) for finished in by_rung.values()]


def summarise(jobs: Sequence[Job], results: Sequence[RunResult]) -> RungResult:
    """Average one rung's finished runs into a row, without comparing it with others.

    Args:
        jobs: The runs, one for each seed.
        results: Their results, in the same order.
    """
    rung, first = jobs[0].rung, jobs[0]
    names = [name for name in results[0].validation if all(name in r.validation for r in results)]
    return RungResult(
        name=rung.name,
        about=rung.about,
        strategies=list(rung.strategies),
        data=rung.data,
        start=rung.start,
        towards=', '.join(job.rung.name for job in first.adapted) or None,
        seeds=[job.seed for job in jobs],
        domains={
            domain: _on(domain, results)
            for domain in dict.fromkeys((*DOMAINS, *results[0].accuracy))
        },
        interval_method=interval_method(len(results)),
        validation={
            name: [round(result.validation[name], 4) for result in results] for name in names
        },
        seconds=round(statistics.fmean(result.seconds for result in results), 1),
        training_seconds=round(statistics.fmean(r.training_seconds for r in results), 1),
        trainable_parameters=results[0].trainable_parameters,
        parameters=results[0].parameters,
        epochs=results[0].epochs,
        iterations=results[0].iterations,
        kept_layers=mean_kept_layers([result.kept_layers for result in results]),
        config=str(first.config),
        checkpoint=results[0].checkpoint,
        command=' && '.join(first.commands()),
        folders=[str(job.folder) for job in jobs],
        left_out={what: why for result in results for what, why in result.left_out.items()},
    )


def _on(domain: str, results: Sequence[RunResult]) -> DomainResult:
    """Average what the seeds of a rung reach on a domain's test images."""
    values = [result.accuracy.get(domain) for result in results]
    labelled = results[0].labelled.get(domain)
    scores = [result.label_free.get(domain) or {} for result in results]
    known = None not in values
    return DomainResult(
        accuracy=_mean(values),
        accuracy_by_seed=values,
        accuracy_spread=round(statistics.stdev(values), 2) if known and len(values) > 1 else None,
        accuracy_interval=accuracy_interval(values, labelled) if known else None,
        images=labelled,
        test_images=results[0].images.get(domain),
        confident=_mean([result.confident.get(domain) for result in results]),
        label_free={
            name: _mean([each.get(name) for each in scores], digits=4) for name in scores[0]
        },
        **(_expected([result.expected for result in results]) if domain == TARGET else {}),
    )


def _expected(found: Sequence[ExpectedAccuracy | None]) -> dict[str, Any]:
    """Average what is expected of the target's accuracy; unknown where it is for a seed."""
    reasons = [
        NOT_ESTIMATED if one is None else one.reason
        for one in found
        if one is None or one.value is None
    ]
    if reasons:
        return dict(no_expected_accuracy=reasons[0])
    ends = [100 * statistics.fmean(getattr(one, end) for one in found) for end in ('low', 'high')]
    return dict(
        expected_accuracy=round(100 * statistics.fmean(one.value for one in found), 2),
        expected_interval=[round(end, 2) for end in ends],
    )


def _mean(values: Sequence[float | None], digits: int = 2) -> float | None:
    """Return the mean; None where a seed has no value, since rungs are compared over all seeds.

    >>> _mean([1.0, 2.0]), _mean([1.0, None]), _mean([])
    (1.5, None, None)
    """
    if not values or None in values:
        return None
    return round(statistics.fmean(values), digits)


def _compared(rungs: Sequence[RungResult]) -> list[RungResult]:
    """Add to each row how it compares with the source model's."""
    baseline = next((rung for rung in rungs if rung.name == BASELINE), None)
    before = read_predictions(baseline) if baseline else {}
    found = []
    for rung in rungs:
        now = read_predictions(rung)
        domains = {
            name: replace(
                on,
                change=_change(on, baseline.on(name)) if baseline else None,
                agreement=_mean([_agreement(name, now[seed], before.get(seed)) for seed in now]),
            )
            for name, on in rung.domains.items()
        }
        found.append(replace(rung, domains=domains))
    return found


def _change(on: DomainResult, baseline: DomainResult) -> float | None:
    if on.accuracy is None or baseline.accuracy is None:
        return None
    return round(on.accuracy - baseline.accuracy, 2)


def _agreement(
    domain: str, now: dict[str, Predictions], before: dict[str, Predictions] | None
) -> float | None:
    if domain not in now:
        return None
    return now[domain].agreement((before or {}).get(domain))


def read_predictions(rung: RungResult) -> dict[int, dict[str, Predictions]]:
    """Read the predictions of a rung's models on test images: seed -> domain -> predictions.

    There are none for a run without ``predictions.json``.
    """
    found = {}
    for seed, folder in zip(rung.seeds, rung.folders):
        content = read_json(Path(folder) / PREDICTIONS_JSON) or {}
        found[seed] = {name: Predictions.from_json(one) for name, one in content.items()}
    return found


def mean_kept_layers(found: Sequence[KeptLayers | None]) -> KeptLayers | None:
    """Average the comparison with the source model over the seeds that have one.

    Args:
        found: One for each seed, see :func:`tl_plugin.ladder.kept_layers.compare_layers`.

    Returns:
        None where no seed was compared.
    """
    known = [each for each in found if each]
    if not known:
        return None
    means = {
        key: {name: _mean_of([getattr(each, key)[name] for each in known]) for name in DOMAINS}
        for key in ('cosine', 'flips', 'drift')
    }
    return KeptLayers(
        layers=known[0].layers,
        images=known[0].images,
        cka={
            name: list(map(_mean_of, zip(*(each.cka[name] for each in known)))) for name in DOMAINS
        },
        seconds=round(statistics.fmean(each.seconds for each in known), 1),
        **means,
    )


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None


def commit() -> str | None:
    """Return the commit of the checkout that is running, with ``-dirty`` if its code was changed.

    Texts and metafiles don't count, since results are written into them.
    """
    root = Path(tl_plugin.__file__).resolve().parent.parent
    if not (root / '.git').exists():
        return None
    try:
        name = _git(root, 'rev-parse', '--short=12', 'HEAD')
        code = (':/', ':(exclude,glob)**/*.md', ':(exclude,glob)**/metafile.yml')
        changed = _git(root, 'status', '--porcelain', '--untracked-files=no', '--', *code)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f'{name}-dirty' if changed else name


def _git(root: Path, *arguments: str) -> str:
    command = ['git', '-C', str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and its libraries."""
    found = {'python': platform.python_version(), 'tl_plugin': tl_plugin.__version__}
    # By module: these two come under several distributions' names.
    found |= {name: module_version(name) for name in ('mmpretrain', 'mmengine')}
    return found | {name: version(name) for name in ('torch', 'timm', 'numpy')}


def machine() -> str:
    """Describe the device in words."""
    if torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    threads = threads_of_a_run() or torch.get_num_threads()
    return f'{os.cpu_count()} CPU cores, {threads} {"thread" if threads == 1 else "threads"} a run'


def read_results(path: Path) -> LadderResults:
    """Read a results.json.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is another file, or another version of the package wrote it.
    """
    results = read_json(path)
    if results is None:
        raise FileNotFoundError(f'no results at {path}: tools/ladder.py CONFIG writes them')
    if 'rungs' not in results:
        raise ValueError(f'{path} is no results.json of tools/ladder.py: it has no "rungs"')
    return LadderResults.from_json(results, path)
