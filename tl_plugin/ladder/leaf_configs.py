"""The leaf configs of a folder as runs: what its README and metafile report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmengine.config import Config

from tl_plugin.strategies import apply_strategies, describe, headline

from .job import Job
from .ready_config import check_measures_target, content_key
from .rung import Rung
from .target_labels import count_target_labels, measure_by_labels


def plan_configs(
    folder: Path, names: Sequence[str], seeds: Iterable[int], work_dir: Path
) -> dict[str, list[Job]]:
    """Lay out the runs of some leaf configs.

    Args:
        folder: Such as ``configs/mnist_m``.
        names: Its configs, without ``.py``, and strategies to put on them: ``'dann'``,
            ``'adapt+mcc'``, ``'adapt+mcc+pseudo_label'``.
        seeds: One run of each config a seed.
        work_dir: A run's folder is ``<work_dir>/<task>/<config>/seed_<seed>``, where the task is
            what the config says of itself: ``task = 'photo -> cartoon'``.

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
    """Leave out the runs whose result stands in the metafile already.

    Args:
        jobs: Runs of one task.
        entries: The metafile's, see :mod:`tl_plugin.ladder.metafile`.
    """
    keys = {run['key'] for entry in entries for run in entry['Runs']}
    return [job for job in jobs if job.key not in keys]
