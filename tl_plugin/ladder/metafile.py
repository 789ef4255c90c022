"""A folder's metafile.yml, which stores what was measured, and the README's table made from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import yaml

from tl_plugin.reliability.files import write_text

from .job import Job
from .measured import CHOOSES, mean_and_spread, measure
from .results import commit, machine, versions

METAFILE_NAME = 'metafile.yml'
BEGIN, END = '<!-- measured: begin -->', '<!-- measured: end -->'
HEADER = f"""# Measured results, written by tools/measure.py. In percent of test images: source,
# target at the last iteration; chosen: target at the validation that {CHOOSES.split('/')[-1]}
# prefers, which takes no labels; oracle: the best by target labels, for comparison alone.
"""


def read_entries(folder: Path) -> list[dict]:
    """Read the models of a folder's metafile; none where there is no file yet."""
    path = folder / METAFILE_NAME
    if not path.is_file():
        return []
    return (yaml.safe_load(path.read_text(encoding='utf-8')) or {}).get('Models') or []


def add_run(folder: Path, task: str, job: Job) -> None:
    """Put a finished run into the metafile, in the place of an older one of the same seed.

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
    run = {'seed': job.seed, **measure(job.folder), 'commit': commit(), 'key': job.key}
    # Runs of a config that has changed since are no longer its runs.
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
    """Write the metafile whole, with the means that OpenMMLab's tools show."""
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
    """Make the README's table: one for each task, a row for each config."""
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
    """What follows ``python tools/train.py configs/FOLDER/``."""
    strategies = entry['Metadata'].get('Strategies')
    name = Path(entry['Config']).name
    return f'{name} --strategy {" ".join(strategies)}' if strategies else name


def write_table(readme: Path, entries: Iterable[dict]) -> None:
    """Put the table between the README's two marks.

    Raises:
        ValueError: If the README hasn't got the marks.
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
    """Whether a run's config is the job's, but for the seed."""
    from .ready_config import content_key

    ready = type(job.ready)(job.ready.to_dict())
    ready.merge_from_dict({'randomness': {'seed': old['seed']}})
    return content_key(ready, None) == old['key']
