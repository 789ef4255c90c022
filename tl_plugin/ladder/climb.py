"""Climbs the ladder: every rung and seed a training run of its own, in a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

import tl_plugin
from tl_plugin.ladder.display import Display
from tl_plugin.ladder.files import read_json, write_json
from tl_plugin.ladder.progress import PROGRESS_NAME, Progress, read_progress
from tl_plugin.ladder.ready_config import CONFIG_NAME, content_key, place, ready_config
from tl_plugin.ladder.run_rung import RESULT_NAME
from tl_plugin.ladder.rungs import Rung

JOB_NAME = 'job.json'
LOG_NAME = 'console.log'
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One rung with one seed.

    Args:
        rung: What is trained.
        seed: Its seed.
        folder: Where everything it makes lies.
        ready: Its config, not yet placed.
        key: What its result is filed under.
        start: The job whose checkpoint it starts from.
    """

    rung: Rung
    seed: int
    folder: Path
    ready: Config
    key: str
    start: Job | None = None

    @property
    def label(self) -> str:
        """Rung and seed, for people."""
        return f'{self.rung.name} (seed {self.seed})'

    @property
    def config(self) -> Path:
        """The ready config."""
        return self.folder / CONFIG_NAME

    def result(self) -> dict | None:
        """What the run found, if it is finished and the config is still the one it ran."""
        found = read_json(self.folder / RESULT_NAME)
        return found if found and found['key'] == self.key else None

    def commands(self) -> list[str]:
        """The shell commands that make the run and its test again."""
        config = shlex.quote(str(self.config))
        checkpoint = shlex.quote((self.result() or {}).get('checkpoint') or 'CHECKPOINT')
        return [
            f'python tools/train.py {config}',
            f'python tools/test.py {config} {checkpoint}',
        ]


@dataclass(frozen=True)
class Failure:
    """A run that gave no result."""

    job: Job
    reason: str
    log: Path | None = None


def plan(cfg: Config, rungs: Iterable[Rung], seeds: Sequence[int], work_dir: Path) -> list[Job]:
    """Lay out the runs, each after the one it starts from.

    Args:
        cfg: The config that the ladder stands on.
        rungs: From :func:`tl_plugin.ladder.rungs.select_rungs`.
        seeds: One run of each rung a seed.
        work_dir: Folder of the whole ladder; a run's is ``<work_dir>/<rung>/seed_<seed>``.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for rung in rungs:
        for seed in seeds:
            start = jobs[rung.start, seed] if rung.start else None
            ready = ready_config(cfg, rung, seed)
            key = content_key(ready, start.key if start else None)
            folder = work_dir / rung.name / f'seed_{seed}'
            jobs[rung.name, seed] = Job(rung, seed, folder, ready, key, start)
    return list(jobs.values())


def climb(jobs: Sequence[Job], display: Display) -> list[Failure]:
    """Run what isn't finished yet. A run that fails takes along only those that start from it.

    Args:
        jobs: From :func:`plan`.
        display: Shows how far they are.

    Returns:
        What failed, and why.
    """
    failures: dict[tuple[str, int], Failure] = {}
    for job in jobs:
        start_failed = job.start and failures.get((job.start.rung.name, job.start.seed))
        if job.result():
            display.finish(job.label, f'finished before, kept: {job.folder}')
        elif start_failed:
            failure = Failure(job, f'not run: it starts from {job.start.label}, which failed')
            failures[job.rung.name, job.seed] = failure
            display.fail(job.label, failure.reason)
        else:
            failure = run(job, display)
            if failure:
                failures[job.rung.name, job.seed] = failure
    return list(failures.values())


def run(job: Job, display: Display) -> Failure | None:
    """Run one job in a process of its own, or go on with it where it was interrupted.

    Returns:
        What went wrong, if something did.
    """
    make_folder(job)
    checkpoint = job.start.result()['checkpoint'] if job.start else None
    place(job.ready, job.folder, checkpoint)
    log = job.folder / LOG_NAME
    display.start(job.label)
    with log.open('ab') as output:
        code = _watch(job, output, display)
    result = job.result()
    if code == 0 and result:
        found = ', '.join(f'{name} {value:.1f}%' for name, value in result['accuracy'].items())
        display.finish(job.label, f'{found} in {result["seconds"]:.0f} s')
        return None
    failure = Failure(job, failure_reason(code, log), log)
    display.fail(job.label, failure_report(failure))
    return failure


def make_folder(job: Job) -> None:
    """Make the job's folder; one that another config has filled is set aside as ``*.old``."""
    job.folder.mkdir(parents=True, exist_ok=True)
    owner = read_json(job.folder / JOB_NAME)
    if any(job.folder.iterdir()) and (not owner or owner['key'] != job.key):
        old = job.folder.with_name(f'{job.folder.name}.old')
        if old.exists():
            shutil.rmtree(old)
        job.folder.rename(old)
        job.folder.mkdir()
    write_json(
        job.folder / JOB_NAME, {'rung': job.rung.name, 'seed': job.seed, 'key': job.key}
    )
    # What an interrupted attempt said of itself is out of date, but for the time it took.
    progress = Progress(elapsed=read_progress(job.folder).elapsed)
    write_json(job.folder / PROGRESS_NAME, progress._asdict())


def failure_reason(code: int, log: Path) -> str:
    """Name what ended a run: the last error in its log, or the signal."""
    if code < 0:
        hint = ', the machine may be out of memory' if code == -signal.SIGKILL else ''
        return f'ended by {signal.Signals(-code).name}{hint}'
    for line in reversed(_tail(log, 50)):
        if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line):
            return line
    return f'exit code {code}'


def failure_report(failure: Failure) -> str:
    """Say what happened, show the log's end, and what to do about it."""
    tail = '\n'.join(f'    {line}' for line in _tail(failure.log, 15))
    cure = 'Mend the cause and run the same command again: finished runs are kept.'
    if 'out of memory' in failure.reason.lower():
        cure = (
            'Smaller batches need less memory: --cfg-options train_dataloader.batch_size=... . '
            'Then run the command again.'
        )
    return (
        f'failed: {failure.reason}\n  The end of {failure.log}:\n{tail}\n  {cure}\n'
        f'  This run alone: {failure.job.commands()[0]}'
    )


def _watch(job: Job, output, display: Display) -> int:
    command = [sys.executable, '-m', 'tl_plugin.ladder.run_rung', str(job.folder), '--key', job.key]
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=_environment()
    )
    try:
        while process.poll() is None:
            display.update(job.label, read_progress(job.folder))
            time.sleep(POLL_SECONDS)
    finally:
        # However this ends, nothing goes on training behind the user's back.
        if process.poll() is None:
            process.terminate()
            process.wait()
    return process.returncode


def _environment() -> dict[str, str]:
    package = str(Path(tl_plugin.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'PYTHONUNBUFFERED': '1'}


def _tail(log: Path, count: int) -> list[str]:
    return log.read_text(encoding='utf-8', errors='replace').splitlines()[-count:]
