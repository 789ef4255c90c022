"""Measure the leaf configs of a folder: their runs, its metafile.yml, and its README's table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import yaml
from mmengine.config import Config

from tl_plugin.reliability.files import read_json, write_text
from tl_plugin.strategies import apply_strategies, describe, headline

from .jobs import Job
from .progress import read_scalars
from .ready_config import check_measures_target, content_key
from .recommend import TARGET_ACCURACY, TARGET_SCORE
from .results import commit, machine, versions
from .run_records import RunResult
from .run_rung import RESULT_NAME
from .rungs import Rung
from .target_labels import count_target_labels, measure_by_labels

METAFILE_NAME = 'metafile.yml'
BEGIN, END = '<!-- measured: begin -->', '<!-- measured: end -->'
HEADER = f"""# Measured results, written by tools/measure.py. In percent of test images: source,
# target at the last iteration; chosen: target at the validation that {TARGET_SCORE.split('/')[-1]}
# prefers, which takes no labels; oracle: the best by target labels, for comparison alone.
"""


def plan_configs(
    folder: Path, names: Sequence[str], seeds: Iterable[int], work_dir: Path
) -> dict[str, list[Job]]:
    """Plan the runs of leaf configs.

    Args:
        folder: Such as ``configs/mnist_m``.
        names: Its configs, without ``.py``, with strategies to merge over them: ``'dann'``,
            ``'adapt+mcc'``, ``'adapt+mcc+pseudo_label'``.
        seeds: Each config is run once for each of them.
        work_dir: A run's folder is ``<work_dir>/<task>/<config>/seed_<seed>``, where the config
            sets the task: ``task = 'photo -> cartoon'``.

    Returns:
        Task -> its runs, config by config.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If a config names no ``task``, or doesn't test on the target.
    """
    tasks: dict[str, list[Job]] = {}
    for name in names:
        config, *strategies = name.split('+')
        path = folder / f'{config}.py'
        if not path.is_file():
            known = ', '.join(sorted(item.stem for item in folder.glob('*.py')))
            raise FileNotFoundError(f'no config {path}; there are {known or "none"}')
        cfg = Config.fromfile(path)
        check_measures_target(cfg)
        cfg = measure_by_labels(cfg, count_target_labels(cfg))
        task = cfg.pop('task', None)
        if not task:
            raise ValueError(f"{path} names no task: set task = 'SOURCE -> TARGET'")
        cfg = apply_strategies(cfg, strategies)
        about = ' '.join(map(describe, strategies)) or headline(path)
        rung = Rung(name, strategies=strategies, about=about)
        for seed in seeds:
            ready = Config(cfg.to_dict())
            ready.merge_from_dict({'randomness': {'seed': seed}})
            run = work_dir / task.replace(' -> ', '_to_') / name / f'seed_{seed}'
            job = Job(rung, seed, run, ready, content_key(ready, None))
            tasks.setdefault(task, []).append(job)
    return tasks


def without_measured(jobs: Iterable[Job], entries: Iterable[dict]) -> list[Job]:
    """Leave out the runs whose result is in the metafile already.

    Args:
        jobs: Runs of one task.
        entries: Of the metafile, see :func:`read_entries`.
    """
    keys = {run['key'] for entry in entries for run in entry['Runs']}
    return [job for job in jobs if job.key not in keys]


def read_entries(folder: Path) -> list[dict]:
    """Read the models of a folder's metafile; none where there is no file yet."""
    path = folder / METAFILE_NAME
    if not path.is_file():
        return []
    return (yaml.safe_load(path.read_text(encoding='utf-8')) or {}).get('Models') or []


def add_run(folder: Path, task: str, job: Job) -> None:
    """Add a finished run to the metafile, in place of an older one of the same seed.

    Args:
        folder: The configs' folder.
        task: ``'SOURCE -> TARGET'``.
        job: A run that has a result.
    """
    entries = read_entries(folder)
    name = f'{job.rung.name}_{task.replace(" -> ", "_to_")}'
    entry = next((item for item in entries if item['Name'] == name), None)
    if entry is None:
        entry = {'Name': name, 'In Collection': folder.name, 'Runs': []}
        entries.append(entry)
    run = {'seed': job.seed, **read_measurement(job.folder), 'commit': commit(), 'key': job.key}
    # Runs of a config that has changed since are dropped.
    kept = [old for old in entry['Runs'] if old['seed'] != job.seed and _same_config(old, job)]
    entry['Runs'] = sorted([*kept, run], key=lambda item: item['seed'])
    entry['Config'] = f'configs/{folder.name}/{job.rung.name.split("+")[0]}.py'
    entry['Metadata'] = {
        'Task': task,
        'About': job.rung.about,
        'Strategies': list(job.rung.strategies),
        'Parameters': run['parameters'],
        'Machine': machine(),
        'Versions': ', '.join(f'{key} {value}' for key, value in versions().items()),
    }
    write_entries(folder, entries)


def write_entries(folder: Path, entries: Iterable[dict]) -> None:
    """Write the metafile, with the means that OpenMMLab's tools show."""
    entries = list(entries)
    for entry in entries:
        entry['Results'] = [
            {
                'Task': 'Image Classification',
                'Dataset': f'{entry["Metadata"]["Task"]}, {domain}',
                'Metrics': {'Top 1 Accuracy': round(fmean(_of(entry, domain)), 2)},
            }
            for domain in ('source', 'target')
            if None not in _of(entry, domain)  # of images without labels
        ]
    content = {'Collections': [{'Name': folder.name, 'README': f'configs/{folder.name}/README.md'}]}
    content['Models'] = entries
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    write_text(folder / METAFILE_NAME, HEADER + text)


def table(entries: Iterable[dict]) -> str:
    """Return the README's tables: one for each task, with a row for each config."""
    tasks: dict[str, list[dict]] = {}
    for entry in entries:
        tasks.setdefault(entry['Metadata']['Task'], []).append(entry)
    return '\n\n'.join(_task_table(task, rows) for task, rows in tasks.items())


def _task_table(task: str, entries: list[dict]) -> str:
    lines = [
        f'**{task}**',
        '',
        '| config | seeds | target, last | target, chosen (oracle) | source | minutes |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    gaps: dict[str, float] = {}
    for entry in entries:
        chosen = '-'
        if all('chosen' in run for run in entry['Runs']):
            gaps[_command(entry)] = fmean(_of(entry, 'oracle')) - fmean(_of(entry, 'chosen'))
            means = [mean_and_spread(_of(entry, key)) for key in ('chosen', 'oracle')]
            chosen = f'{means[0]} ({means[1]})'
        minutes = fmean(_of(entry, 'minutes'))
        lines.append(
            f'| `{_command(entry)}` | {len(entry["Runs"])} '
            f'| {mean_and_spread(_of(entry, "target"))} | {chosen} '
            f'| {mean_and_spread(_of(entry, "source"))} | {minutes:.0f} |'
        )
    if gaps:
        worst = max(gaps, key=gaps.__getitem__)
        lines += [
            '',
            f'Behind the oracle, what is chosen without labels: {fmean(gaps.values()):.2f} points, '
            f'mean over {len(gaps)} configs; at most {gaps[worst]:.2f} (`{worst}`).',
        ]
    return '\n'.join(lines)


def _command(entry: dict) -> str:
    """Return what follows ``python tools/train.py configs/FOLDER/``."""
    strategies = entry['Metadata'].get('Strategies')
    name = Path(entry['Config']).name
    return f'{name} --strategy {" ".join(strategies)}' if strategies else name


def write_table(readme: Path, entries: Iterable[dict]) -> None:
    """Write the table between the README's two marks.

    Raises:
        ValueError: If the README has no such marks.
    """
    text = readme.read_text(encoding='utf-8')
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'{readme} has no place for the table: put {BEGIN} and {END} there')
    write_text(readme, f'{before}{BEGIN}\n{table(entries)}\n{END}{after}')


def _of(entry: dict, key: str) -> list[float]:
    return [run[key] for run in entry['Runs']]


def _same_config(old: dict, job: Job) -> bool:
    """Return whether a run's config is the job's, except for the seed."""
    ready = type(job.ready)(job.ready.to_dict())
    ready.merge_from_dict({'randomness': {'seed': old['seed']}})
    return content_key(ready, None) == old['key']


def read_measurement(folder: Path) -> dict:
    """Read what a finished run measured.

    Args:
        folder: The run's, with ``result.json`` and mmengine's ``scalars.json``.

    Returns:
        ``source`` and ``target``: accuracy at the last iteration in percent, None where the test
        images have no labels. Where the run validated the target, ``chosen`` (target accuracy at
        the validation with the best label-free score) and ``oracle`` (the best target accuracy,
        which needs labels), with their ``steps``. ``minutes``, ``parameters``, ``finished``.
    """
    result = RunResult.from_json(read_json(folder / RESULT_NAME))
    _, validation = read_scalars(folder)
    accuracy = {domain: result.accuracy.get(domain) for domain in ('source', 'target')}
    return {
        **{name: None if value is None else round(value, 2) for name, value in accuracy.items()},
        **choices(validation),
        'minutes': round(result.seconds / 60, 1),
        'parameters': result.parameters,
        'finished': result.finished,
    }


def choices(validation: Sequence[dict]) -> dict:
    """Compare the validation with the best label-free score with the most accurate one.

    Args:
        validation: Records of mmengine, by rising ``step``.

    Returns:
        ``chosen``, ``oracle`` in percent and ``steps``; nothing where the target or its score
        wasn't validated.

    Example:
        >>> first = {'step': 1, TARGET_SCORE: 0.2, TARGET_ACCURACY: 50.0}
        >>> choices([first, {'step': 2, TARGET_SCORE: 0.1, TARGET_ACCURACY: 60.0}])
        {'chosen': 50.0, 'oracle': 60.0, 'steps': [1, 2]}
    """
    records = [
        record for record in validation if TARGET_SCORE in record and TARGET_ACCURACY in record
    ]
    if not records:
        return {}
    chosen = max(records, key=lambda record: record[TARGET_SCORE])
    oracle = max(records, key=lambda record: record[TARGET_ACCURACY])
    return {
        'chosen': round(chosen[TARGET_ACCURACY], 2),
        'oracle': round(oracle[TARGET_ACCURACY], 2),
        'steps': [chosen['step'], oracle['step']],
    }


def mean_and_spread(values: Sequence[float | None]) -> str:
    """Format the mean of several seeds, with their standard deviation.

    >>> mean_and_spread([70.0, 72.0]), mean_and_spread([70.0]), mean_and_spread([None])
    ('71.0 ± 1.4', '70.0', 'not known')
    """
    if None in values:
        return 'not known'
    mean = f'{fmean(values):.1f}'
    return f'{mean} ± {stdev(values):.1f}' if len(values) > 1 else mean
