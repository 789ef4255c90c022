"""Climb the ladder: each rung and seed is a training run in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

import tl_plugin
from tl_plugin.launch.console import tool_command
from tl_plugin.reliability.files import read_json, write_json
from tl_plugin.reporting.progress import ProgressDisplay

from .progress import PROGRESS_NAME, Progress, read_progress
from .ready_config import CONFIG_NAME, content_key, place, ready_config
from .recommend import BASELINE
from .records import FailedRun, RunResult
from .run_rung import RESULT_NAME
from .rungs import Rung

JOB_NAME = 'job.json'
LOG_NAME = 'console.log'
POLL_SECONDS = 0.2


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
        adapted: The job whose checkpoint is the second of two models.
        baseline: The job of the source model, which the trained one is compared with.
    """

    rung: Rung
    seed: int
    folder: Path
    ready: Config
    key: str
    start: Job | None = None
    adapted: Job | None = None
    baseline: Job | None = None

    @property
    def id(self) -> tuple[str, int]:
        """Rung and seed."""
        return self.rung.name, self.seed

    @property
    def needs(self) -> list[Job]:
        """Jobs whose checkpoints it needs."""
        return [job for job in (self.start, self.adapted) if job]

    @property
    def after(self) -> list[Job]:
        """Jobs that have to end before it starts."""
        return [*self.needs, *([self.baseline] if self.baseline else [])]

    @property
    def label(self) -> str:
        """Rung and seed as text."""
        return f'{self.rung.name} (seed {self.seed})'

    @property
    def config(self) -> Path:
        """The ready config."""
        return self.folder / CONFIG_NAME

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
        rungs: From :func:`tl_plugin.ladder.rungs.select_rungs`.
        seeds: Each rung is run once for each of them.
        work_dir: Folder of the whole ladder; a run's is ``<work_dir>/<rung>/seed_<seed>``.
        budget_source: Points of source accuracy that a rung may lose. Defaults to None: rungs that
            keep to a budget keep their own.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for rung in rungs:
        for seed in seeds:
            start = jobs[rung.start, seed] if rung.start else None
            adapted = jobs[rung.towards[0], seed] if rung.towards else None
            ready = ready_config(cfg, rung, seed, budget_source)
            more = [adapted.key] if adapted else []
            key = content_key(ready, start.key if start else None, *more)
            folder = work_dir / rung.name / f'seed_{seed}'
            baseline = jobs.get((BASELINE, seed))
            jobs[rung.name, seed] = Job(rung, seed, folder, ready, key, start, adapted, baseline)
    return list(jobs.values())


def climb(
    jobs: Sequence[Job],
    display: ProgressDisplay,
    stop: Callable[[Sequence[Job]], str | None] = lambda jobs: None,
    devices: Sequence[str | None] = (None,),
) -> tuple[list[FailedRun], dict[str, str]]:
    """Run the jobs that aren't finished. A failed run stops only those that start from it.

    Args:
        jobs: From :func:`plan`.
        display: Shows their progress.
        stop: Called with all jobs before each new rung; a reason that it returns ends the climb.
        devices: ``CUDA_VISIBLE_DEVICES`` of each of the runs that run in parallel. Defaults to one
            run at a time with the environment's own.

    Returns:
        The failed runs; the rungs that the climb stopped before -> the reason.
    """
    waiting, running = list(jobs), []
    failures: dict[tuple[str, int], FailedRun] = {}
    not_climbed: dict[str, str] = {}
    begun: set[str] = set()
    try:
        while waiting or running:
            for job in list(waiting):
                free = [device for device in devices if device not in [r.device for r in running]]
                broken = next((need for need in job.needs if need.id in failures), None)
                if job.result():
                    display.finish(job.label, f'finished before, kept: {job.folder}')
                elif broken:
                    reason = f'not run: it starts from {broken.label}, which failed'
                    failures[job.id] = FailedRun(*job.id, reason)
                    display.finish(job.label, reason, failed=True)
                elif not free or _unfinished(job, waiting, running):
                    continue
                elif job.rung.name not in begun and (reason := stop(jobs)):
                    not_climbed[job.rung.name] = reason
                    display.finish(job.label, f'not climbed: {reason}')
                else:
                    running.append(start(job, display, free[0]))
                    begun.add(job.rung.name)
                waiting.remove(job)
            for run in list(running):
                if run.process.poll() is None:
                    now = read_progress(run.job.folder)
                    steps = now.iteration, now.max_iterations
                    display.update(run.job.label, now.in_words(), *steps)
                    continue
                running.remove(run)
                failure = finish(run, display)
                if failure:
                    failures[run.job.id] = failure
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        # No run goes on in the background, however this ends.
        for run in running:
            run.process.terminate()
        for run in running:
            run.process.wait()
    return list(failures.values()), not_climbed


def _unfinished(job: Job, waiting: Sequence[Job], running: Sequence[Run]) -> bool:
    """Return whether another job has to end before this one can start."""
    open_jobs = [other.id for other in (*waiting, *(run.job for run in running))]
    return any(earlier.id in open_jobs for earlier in job.after)


@dataclass(frozen=True)
class Run:
    """A job that is running in a process of its own."""

    job: Job
    process: subprocess.Popen
    device: str | None = None


def start(job: Job, display: ProgressDisplay, device: str | None = None) -> Run:
    """Start a job, or resume it where it was interrupted."""
    make_folder(job)
    place(job.ready, job.folder, _checkpoint(job.start), _checkpoint(job.adapted))
    display.start(job.label)
    command = [sys.executable, '-m', 'tl_plugin.ladder.run_rung', str(job.folder), '--key', job.key]
    source_model = _checkpoint(job.baseline)
    if source_model:
        command += ['--source-model', source_model]
    with (job.folder / LOG_NAME).open('ab') as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(device)
        )
    return Run(job, process, device)


def _checkpoint(job: Job | None) -> str | None:
    """Return the model of a finished run."""
    result = job.result() if job else None
    return result.checkpoint if result else None


def finish(run: Run, display: ProgressDisplay) -> FailedRun | None:
    """Show how a run ended.

    Returns:
        The failure; None where the run has a result.
    """
    job, log = run.job, run.job.folder / LOG_NAME
    result = job.result()
    if result:
        found = f'{result.in_words()} in {result.seconds:.0f} s'
        if run.process.returncode:
            # What comes after the result is optional, even if it ended the process.
            reason = failure_reason(run.process.returncode, log)
            found += f'; what comes after the result was left out: {reason} (see {log})'
        display.finish(job.label, found)
        return None
    reason = failure_reason(run.process.returncode, log)
    display.finish(job.label, failure_report(job, reason), failed=True)
    return FailedRun(*job.id, reason, str(log))


def make_folder(job: Job) -> None:
    """Make the job's folder; rename one of another config to ``*.old``."""
    job.folder.mkdir(parents=True, exist_ok=True)
    owner = read_json(job.folder / JOB_NAME)
    if any(job.folder.iterdir()) and (not owner or owner['key'] != job.key):
        old = job.folder.with_name(f'{job.folder.name}.old')
        if old.exists():
            shutil.rmtree(old)
        job.folder.rename(old)
        job.folder.mkdir()
    write_json(job.folder / JOB_NAME, {'rung': job.rung.name, 'seed': job.seed, 'key': job.key})
    # Of an interrupted attempt only the time it took counts.
    progress = Progress(elapsed=read_progress(job.folder).elapsed)
    write_json(job.folder / PROGRESS_NAME, progress._asdict())


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
    log = job.folder / LOG_NAME
    tail = '\n'.join(f'    {line}' for line in _tail(log, 15))
    fix = 'Fix the cause and run the same command again: finished runs are kept.'
    if 'out of memory' in reason.lower():
        fix = (
            'Smaller batches need less memory: --cfg-options train_dataloader.batch_size=... . '
            'Then run the command again.'
        )
    return (
        f'failed: {reason}\n  The end of {log}:\n{tail}\n  {fix}\n'
        f'  This run alone: {job.commands()[0]}'
    )


def _environment(device: str | None) -> dict[str, str]:
    package = str(Path(tl_plugin.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
    visible = {} if device is None else {'CUDA_VISIBLE_DEVICES': device}
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths), 'PYTHONUNBUFFERED': '1', **visible}


def _tail(log: Path, count: int) -> list[str]:
    return log.read_text(encoding='utf-8', errors='replace').splitlines()[-count:]
