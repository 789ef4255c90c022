"""The runs of a ladder: what each builds on, its folder, and how it ended."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from tl_plugin.launch.console import tool_command
from tl_plugin.reliability.files import read_json, write_json

from .progress import PROGRESS_NAME, Progress, read_progress
from .ready_config import CONFIG_NAME, content_key, place, ready_config
from .recommend import BASELINE
from .run_records import RunResult
from .run_rung import RESULT_NAME
from .rung_data import changed_data, data_hashes
from .rungs import LABELLED_TARGET, STEP_IMAGES, TWO_MODELS, Rung
from .shared_copies import FOLDER_NAME

JOB_NAME, LOG_NAME = 'job.json', 'console.log'


@dataclass(frozen=True)
class Job:
    """One rung with one seed.

    Args:
        rung: The rung.
        seed: The seed.
        folder: Folder of all files of the run.
        ready: Its config, not yet placed.
        key: Of its result, see :func:`~tl_plugin.ladder.ready_config.content_key`.
        start: The job whose checkpoint it starts from.
        adapted: The jobs whose checkpoints are mixed with that of ``start``.
        baseline: The job of the source model, which the trained one is compared with.
        data: Hashes of the images that the config names, see
            :func:`~tl_plugin.ladder.rung_data.data_hashes`.
    """

    rung: Rung
    seed: int
    folder: Path
    ready: Config
    key: str
    start: Job | None = None
    adapted: tuple[Job, ...] = ()
    baseline: Job | None = None
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> tuple[str, int]:
        """Rung and seed."""
        return self.rung.name, self.seed

    @property
    def needs(self) -> list[Job]:
        """Jobs whose checkpoints it needs."""
        return [*([self.start] if self.start else []), *self.adapted]

    @property
    def after(self) -> list[Job]:
        """Jobs that have to end before it starts."""
        return [*self.needs, *([self.baseline] if self.baseline else [])]

    @property
    def cost(self) -> float:
        """How long it takes, roughly, against others: passes over the source's or target's images.

        0 for a run that sees few of them, or doesn't train.
        """
        if self.rung.data in (LABELLED_TARGET, TWO_MODELS):
            return 0.0
        length = self.ready.train_cfg.get('max_epochs') or self.ready.train_cfg.get('max_iters')
        return float(length or 0) * STEP_IMAGES.get(self.rung.data, 1)

    @property
    def shared(self) -> Path:
        """Folder of what the runs of the climb make once for all."""
        return self.folder.parent.parent / FOLDER_NAME

    @property
    def label(self) -> str:
        """Rung and seed as text."""
        return f'{self.rung.name} (seed {self.seed})'

    @property
    def config(self) -> Path:
        """The ready config."""
        return self.folder / CONFIG_NAME

    @property
    def log(self) -> Path:
        """All that it prints."""
        return self.folder / LOG_NAME

    def result(self) -> RunResult | None:
        """Return the result, if the run is finished and its config hasn't changed since."""
        path = self.folder / RESULT_NAME
        found = read_json(path)
        return RunResult.from_json(found, path) if found and found['key'] == self.key else None

    def commands(self) -> list[str]:
        """Return the shell commands that repeat training and test from the current folder."""
        checkpoint = getattr(self.result(), 'checkpoint', '') or 'CHECKPOINT'
        return [
            tool_command('train.py', self.config),
            tool_command('test.py', self.config, checkpoint),
        ]


def plan(
    cfg: Config,
    rungs: Iterable[Rung],
    seeds: Sequence[int],
    work_dir: Path,
    budget_source: float | None = None,
) -> list[Job]:
    """Plan the runs, each after those that it builds on.

    Args:
        cfg: The base config of the ladder.
        rungs: From :func:`tl_plugin.ladder.selection.select_rungs`.
        seeds: Each rung is run once for each of them.
        work_dir: Folder of the whole ladder; a run's is ``<work_dir>/<rung>/seed_<seed>``.
        budget_source: Points of source accuracy that a rung may lose. Defaults to None: rungs that
            keep to a budget keep their own.
    """
    jobs: dict[tuple[str, int], Job] = {}
    hashes: dict[str, str] = {}
    for rung in rungs:
        for seed in seeds:
            start = jobs[rung.start, seed] if rung.start else None
            adapted = tuple(jobs[name, seed] for name in rung.mixed_with)
            ready = ready_config(cfg, rung, seed, budget_source)
            data = data_hashes(ready, hashes)
            more = [job.key for job in adapted] + ([json.dumps(data)] if data else [])
            key = content_key(ready, start.key if start else None, *more)
            folder = work_dir / rung.name / f'seed_{seed}'
            baseline = jobs.get((BASELINE, seed))
            jobs[rung.name, seed] = Job(
                rung, seed, folder, ready, key, start, adapted, baseline, data
            )
    return list(jobs.values())


def prepare_folder(job: Job) -> str:
    """Make a job's folder and write its config there, with its start, as far as that is known.

    Returns:
        Why an earlier run there doesn't count any more, where that is its data; or ''.
    """
    changed = make_folder(job)
    adapted = [_checkpoint(each) for each in job.adapted]
    place(job.ready, job.folder, _checkpoint(job.start), adapted if all(adapted) else [])
    return changed


def _checkpoint(job: Job | None) -> str | None:
    """Return the model of a finished run."""
    result = job.result() if job else None
    return result.checkpoint if result else None


def make_folder(job: Job) -> str:
    """Make the job's folder; rename one of another config or other data to ``*.old``.

    Returns:
        Which data are others, in words; '' where none are.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    owner, changed = read_json(job.folder / JOB_NAME), ''
    if any(job.folder.iterdir()) and (not owner or owner['key'] != job.key):
        old = job.folder.with_name(f'{job.folder.name}.old')
        if old.exists():
            shutil.rmtree(old)
        job.folder.rename(old)
        job.folder.mkdir()
        if others := changed_data((owner or {}).get('data'), job.data):
            changed = f'other images in {", ".join(others)}; the run on those before is now {old}'
    # A run that ended before all was measured leaves one.
    (job.folder / RESULT_NAME).unlink(missing_ok=True)
    about = {'rung': job.rung.name, 'seed': job.seed, 'key': job.key, 'data': dict(job.data)}
    write_json(job.folder / JOB_NAME, about)
    # Of an interrupted attempt only the time it took counts.
    before = read_progress(job.folder)
    progress = Progress(elapsed=before.elapsed, trained=before.trained)
    write_json(job.folder / PROGRESS_NAME, progress._asdict())
    return changed


def failure_reason(code: int, log: Path) -> str:
    """Return what ended a run: the last error in its log, or the signal."""
    if code < 0:
        hint = ', the machine may be out of memory' if code == -signal.SIGKILL else ''
        return f'ended by {signal.Signals(-code).name}{hint}'
    for line in reversed(_tail(log, 50)):
        if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line):
            return line
    return f'exit code {code}'


def failure_report(job: Job, reason: str) -> str:
    """Return the reason, the end of the log, and how to fix it."""
    tail = '\n'.join(f'    {line}' for line in _tail(job.log, 15))
    fix = 'Fix the cause and run the same command again: finished runs are kept.'
    if 'out of memory' in reason.lower():
        fix = (
            'Smaller batches need less memory: --cfg-options train_dataloader.batch_size=... . '
            'Then run the command again.'
        )
    return (
        f'failed: {reason}\n  The end of {job.log}:\n{tail}\n  {fix}\n'
        f'  This run alone: {job.commands()[0]}'
    )


def _tail(log: Path, count: int) -> list[str]:
    if not log.is_file():
        return []
    return log.read_text(encoding='utf-8', errors='replace').splitlines()[-count:]
