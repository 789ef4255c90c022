"""The ladder's findings, the content of results.json."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import tl_plugin
from tl_plugin.ladder.files import read_json
from tl_plugin.ladder.intervals import accuracy_interval, interval_method
from tl_plugin.ladder.job import Failure, Job
from tl_plugin.ladder.recommend import BASELINE, recommend

RESULTS_NAME = 'results.json'


def collect(
    jobs: Sequence[Job],
    failures: Sequence[Failure],
    config: str,
    budget_source: float | None = None,
    not_climbed: Mapping[str, str] | None = None,
) -> dict:
    """Put all finished runs into one dict, the content of results.json.

    Args:
        jobs: All runs of the climb.
        failures: Those that gave no result.
        config: Name of the config that the ladder stands on.
        budget_source: See :func:`~tl_plugin.ladder.recommend.recommend`.
        not_climbed: Rungs that the climb stopped before -> why.

    Returns:
        ``rungs``: a list in order of cost, see :func:`summarise`; ``recommendation``,
        a dict, or None where nothing was validated; ``not_climbed``; ``failures``; and where all of
        it comes from: ``config``, ``date``, ``commit``, ``versions``, ``machine``.
    """
    rungs = summaries(jobs)
    baseline = next((rung for rung in rungs if rung['name'] == BASELINE), None)
    for rung in rungs:
        rung['target_change'] = _difference(rung, baseline, 'target_accuracy')
        rung['source_change'] = _difference(rung, baseline, 'source_accuracy')
    found = recommend(rungs, budget_source)
    return {
        'config': config,
        'date': datetime.datetime.now().astimezone().isoformat(timespec='seconds'),
        'commit': commit(),
        'versions': versions(),
        'machine': machine(),
        'rungs': rungs,
        'recommendation': asdict(found) if found else None,
        'not_climbed': dict(not_climbed or {}),
        'failures': [
            {
                'name': failure.job.rung.name,
                'seed': failure.job.seed,
                'reason': failure.reason,
                'log': str(failure.log) if failure.log else None,
            }
            for failure in failures
        ],
    }


def summaries(jobs: Sequence[Job]) -> list[dict]:
    """The rows of all rungs that have a finished run, in the order of the jobs."""
    by_rung: dict[str, list[Job]] = {}
    for job in jobs:
        if job.result():
            by_rung.setdefault(job.rung.name, []).append(job)
    return [summarise(finished) for finished in by_rung.values()]


def summarise(jobs: Sequence[Job]) -> dict:
    """One rung's row: means over its seeds.

    Args:
        jobs: The rung's finished runs, one a seed.

    Returns:
        ``name``, ``about``, ``strategies``, ``data``, ``start``, ``towards`` (the rung that gave
        the second of two models), ``seeds``; ``<domain>_accuracy`` in percent of the domain's test
        images, mean over seeds, ``<domain>_accuracy_by_seed``, ``<domain>_accuracy_spread``
        (standard deviation over seeds, None for one seed), ``<domain>_accuracy_interval`` (95%, see
        :func:`~tl_plugin.ladder.intervals.accuracy_interval`) and ``<domain>_images``
        for every domain; ``interval_method``, a key of :data:`~tl_plugin.ladder.intervals.METHODS`;
        ``kept_layers``, see :func:`mean_kept_layers`; ``validation``, metric -> values by seed at
        the end; ``seconds`` (mean of training and testing), ``trainable_parameters``,
        ``parameters``, ``epochs``, ``iterations``; and the first seed's ``config``, ``checkpoint``
        and ``command``, with ``folders`` of all.
    """
    rung, first = jobs[0].rung, jobs[0]
    results = [job.result() for job in jobs]
    row = {
        'name': rung.name,
        'about': rung.about,
        'strategies': list(rung.strategies),
        'data': rung.data,
        'start': rung.start,
        'towards': first.adapted.rung.name if first.adapted else None,
        'seeds': [job.seed for job in jobs],
    }
    for domain in results[0]['accuracy']:
        values = [result['accuracy'][domain] for result in results]
        row[f'{domain}_accuracy'] = round(statistics.fmean(values), 2)
        row[f'{domain}_accuracy_by_seed'] = values
        row[f'{domain}_accuracy_spread'] = (
            round(statistics.stdev(values), 2) if len(values) > 1 else None
        )
        images = (results[0].get('images') or {}).get(domain)
        row[f'{domain}_accuracy_interval'] = accuracy_interval(values, images)
        row[f'{domain}_images'] = images
    row['interval_method'] = interval_method(len(results))
    row['validation'] = {
        name: [round(result['validation'][name], 4) for result in results]
        for name in results[0].get('validation', {})
    }
    row['seconds'] = round(statistics.fmean(result['seconds'] for result in results), 1)
    for name in ('trainable_parameters', 'parameters', 'epochs', 'iterations'):
        row[name] = results[0][name]
    row['kept_layers'] = mean_kept_layers([result.get('kept_layers') for result in results])
    row['config'] = str(first.config)
    row['checkpoint'] = results[0]['checkpoint']
    row['command'] = ' && '.join(first.commands())
    row['folders'] = [str(job.folder) for job in jobs]
    return row


def mean_kept_layers(found: Sequence[dict | None]) -> dict | None:
    """Likeness to the source model layer by layer, the mean over the seeds that have one.

    Args:
        found: Of each seed, see :func:`tl_plugin.ladder.kept_layers.kept_layers`.

    Returns:
        ``layers``, ``images``, and ``source`` and ``target``, each with ``cka`` by layer; None
        where no seed was compared.
    """
    known = [each for each in found if each]
    if not known:
        return None
    mean = {key: known[0][key] for key in ('layers', 'images')}
    for domain in ('source', 'target'):
        columns = zip(*(each[domain]['cka'] for each in known))
        mean[domain] = {'cka': [_mean_of(column) for column in columns]}
    mean['seconds'] = round(statistics.fmean(each['seconds'] for each in known), 1)
    return mean


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), 4) if known else None


def commit() -> str | None:
    """The commit of the checkout that the package runs from, ``-dirty`` if its code was changed.

    Texts and metafiles don't count: results are written into them.
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
    """What the results were made with."""
    found = {'python': platform.python_version(), 'tl_plugin': tl_plugin.__version__}
    for name in ('mmpretrain', 'mmengine', 'torch', 'timm', 'numpy'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine() -> str:
    """The device that did the work, in words."""
    import torch

    if torch.cuda.is_available():
        return f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    return f'{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads'


def recommended_rung(results: dict) -> dict | None:
    """The row of the recommended rung; None where there is no recommendation."""
    name = (results['recommendation'] or {}).get('rung')
    return next((rung for rung in results['rungs'] if rung['name'] == name), None)


def read_results(path: Path) -> dict:
    """Read a results.json.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is something else.
    """
    results = read_json(path)
    if results is None:
        raise FileNotFoundError(f'no results at {path}: tools/ladder.py CONFIG writes them')
    if 'rungs' not in results:
        raise ValueError(f'{path} is no results.json of tools/ladder.py: it has no "rungs"')
    return results


def _difference(rung: dict, baseline: dict | None, name: str) -> float | None:
    return round(rung[name] - baseline[name], 2) if baseline else None
