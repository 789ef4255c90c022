"""Climb the ladder: each rung and seed is a training run in a process of its own."""

from __future__ import annotations

import re
import shutil
import signal
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmengine.config import Config

from tl_plugin.launch.console import tool_command
from tl_plugin.reliability.files import read_json, write_json
from tl_plugin.reporting.progress import ProgressDisplay

from .capacity import Usage
from .launchers import LOG_NAME, Launcher, Process, ThisMachine
from .progress import PROGRESS_NAME, Progress, read_progress
from .ready_config import CONFIG_NAME, content_key, place, ready_config
from .recommend import BASELINE
from .records import FailedRun, RunResult, time_waited
from .run_rung import RESULT_NAME
from .rungs import Rung
from .shared_copies import FOLDER_NAME

JOB_NAME = 'job.json'
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
        adapted: The jobs whose checkpoints are mixed with that of ``start``.
        baseline: The job of the source model, which the trained one is compared with.
    """

    rung: Rung
    seed: int
    folder: Path
    ready: Config
    key: str
    start: Job | None = None
    adapted: tuple[Job, ...] = ()
    baseline: Job | None = None

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
            adapted = tuple(jobs[name, seed] for name in rung.mixed_with)
            ready = ready_config(cfg, rung, seed, budget_source)
            more = [job.key for job in adapted]
            key = content_key(ready, start.key if start else None, *more)
            folder = work_dir / rung.name / f'seed_{seed}'
            baseline = jobs.get((BASELINE, seed))
            jobs[rung.name, seed] = Job(rung, seed, folder, ready, key, start, adapted, baseline)
    return list(jobs.values())


class Stop(Protocol):
    """What may end a climb before its last rung, see :class:`~tl_plugin.ladder.limits.Limits`."""

    def used_up(self, spent: float) -> str | None:
        """Return why no further rung starts after so many seconds."""

    def enough(self, jobs: Sequence[Job]) -> str | None:
        """Return why what these jobs reach is enough, so that no more expensive one is wanted."""


@dataclass(frozen=True)
class Run:
    """A job that goes on in a process of its own."""

    job: Job
    process: Process
    place: str = ''


class Climb:
    """Runs the jobs that aren't finished, side by side where the launcher has room.

    A failed run stops only those that start from it. Which rungs are climbed doesn't depend on how
    many go on at once: whether a rung is climbed is decided by the results of those before it.

    Args:
        jobs: From :func:`plan`.
        display: Shows their progress.
        stop: May end the climb. Defaults to None, never.
        launcher: Where runs go on. Defaults to None, one at a time on this machine.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        display: ProgressDisplay,
        stop: Stop | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        self.jobs, self._display, self._stop = list(jobs), display, stop
        self._launcher = launcher or ThisMachine(jobs=1)
        self._waiting: list[Job] = list(jobs)
        self._running: list[Run] = []
        self._begun: set[str] = set()
        self._judged: dict[tuple[str, int], str | None] = {}
        self._results = {job.id: result for job in jobs if (result := job.result())}
        self._waited_before = time_waited(self._results.values())
        self._started = time.monotonic()
        self.failures: dict[tuple[str, int], FailedRun] = {}
        self.not_climbed: dict[str, str] = {}

    def run(self) -> tuple[list[FailedRun], dict[str, str]]:
        """Climb.

        Returns:
            The failed runs; the rungs that the climb stopped before -> the reason.
        """
        interrupted = True
        try:
            while self._waiting or self._running:
                for job in list(self._waiting):
                    if self._settle(job) or self._start(job):
                        self._waiting.remove(job)
                for run in list(self._running):
                    self._look_at(run)
                self._display.show_left(self._left())
                if self._running:
                    time.sleep(POLL_SECONDS)
            interrupted = False
        finally:
            # No run goes on in the background, however this ends, unless on a cluster.
            if not (interrupted and self._launcher.holds_back):
                for run in self._running:
                    run.process.terminate()
                for run in self._running:
                    run.process.wait()
            self._launcher.close(interrupted)
            if not (interrupted and self._launcher.holds_back):
                for shared in {job.shared for job in self.jobs}:
                    shutil.rmtree(shared, ignore_errors=True)
        return list(self.failures.values()), self.not_climbed

    def _settle(self, job: Job) -> bool:
        """Return whether a job needs no run: it has a result, it can't run, or it isn't wanted."""
        if job.id in self._results:
            self._display.finish(job.label, f'finished before, kept: {job.folder}')
            return True
        broken = next((need for need in job.needs if need.id in self.failures), None)
        if broken:
            self._fail(job, f'not run: it starts from {broken.label}, which failed')
            return True
        left_out = next((need for need in job.needs if need.rung.name in self.not_climbed), None)
        reason = self.not_climbed[left_out.rung.name] if left_out else None
        if not reason and self._stop and job.rung.name not in self._begun:
            spent = self._waited_before + time.monotonic() - self._started
            reason = self._stop.used_up(spent) or self._enough(job)
        if reason:
            self._leave(job, reason)
        return bool(reason)

    def _before(self, job: Job) -> list[Job]:
        """Return the jobs of the rungs before a job's whose seeds have all ended."""
        going_on = {other.rung.name for other in self._waiting}
        going_on |= {run.job.rung.name for run in self._running}
        names = [other.rung.name for other in self.jobs]
        earlier = self.jobs[: names.index(job.rung.name)]
        return [other for other in earlier if other.rung.name not in going_on]

    def _enough(self, job: Job) -> str | None:
        """Return why a rung isn't wanted any more; read again when another has ended."""
        if self._stop is None:
            return None
        key = job.rung.name, len(self._results) + len(self.failures)
        if key not in self._judged:
            self._judged[key] = self._stop.enough(self._before(job))
        return self._judged[key]

    def _fail(self, job: Job, reason: str) -> None:
        self.failures[job.id] = FailedRun(*job.id, reason)
        self._display.finish(job.label, reason, failed=True)

    def _leave(self, job: Job, reason: str) -> None:
        self.not_climbed[job.rung.name] = reason
        self._display.finish(job.label, f'not climbed: {reason}')

    def _start(self, job: Job) -> bool:
        """Start a job, or resume it, if it can start now."""
        open_ids = {other.id for other in (*self._waiting, *(run.job for run in self._running))}
        waits_for = [run for run in self._running if run.job in job.after]
        if self._launcher.holds_back:
            open_ids -= {run.job.id for run in waits_for}
        if any(earlier.id in open_ids for earlier in job.after):
            return False
        place = self._launcher.room(self._running, self._usage())
        if place is None:
            return False
        prepare_folder(job)
        self._display.start(job.label)
        process = self._launcher.start(job, place, waits_for)
        self._running.append(Run(job, process, place))
        self._begun.add(job.rung.name)
        return True

    def _look_at(self, run: Run) -> None:
        """Show how far a run is; take in its end."""
        job = run.job
        if run.process.poll() is None:
            if reason := self._enough(job):
                run.process.terminate()
                run.process.wait()
                self._running.remove(run)
                self._leave(job, reason)
                return
            now = read_progress(job.folder)
            self._display.update(job.label, now.in_words(), now.iteration, now.max_iterations)
            return
        self._running.remove(run)
        broken = next((need for need in job.needs if need.id in self.failures), None)
        if broken:  # a cluster has dropped it
            self._fail(job, f'not run: it starts from {broken.label}, which failed')
            return
        failure = finish(run, self._display)
        if failure:
            self.failures[job.id] = failure
        else:
            self._results[job.id] = job.result()

    def _usage(self) -> Usage | None:
        """Return what a run takes of the machine at most, of those that were measured."""
        known = [result for result in self._results.values() if result.memory]
        if not known:
            return None
        cores = max(result.cores for result in known)
        return Usage(cores, max(result.memory for result in known))

    def _left(self) -> float | None:
        """Estimate the seconds until the end; None while no run tells how long one takes."""
        if not self._results:
            return None
        by_rung = {name: result.seconds for (name, _), result in self._results.items()}
        mean = statistics.fmean(result.seconds for result in self._results.values())
        left = [by_rung.get(job.rung.name, mean) for job in self._waiting]
        for run in self._running:
            now = read_progress(run.job.folder)
            usual = max(0.0, by_rung.get(run.job.rung.name, mean) - now.elapsed)
            left.append(usual if now.remaining is None else now.remaining)
        return max([sum(left) / max(len(self._running), 1), *left], default=0.0)


def climb(
    jobs: Sequence[Job],
    display: ProgressDisplay,
    stop: Stop | None = None,
    launcher: Launcher | None = None,
) -> tuple[list[FailedRun], dict[str, str]]:
    """Run the jobs that aren't finished, see :class:`Climb`.

    Args:
        jobs: From :func:`plan`.
        display: Shows their progress.
        stop: May end the climb. Defaults to None, never.
        launcher: Where runs go on. Defaults to None, one at a time on this machine.

    Returns:
        The failed runs; the rungs that the climb stopped before -> the reason.
    """
    return Climb(jobs, display, stop, launcher).run()


def prepare_folder(job: Job) -> None:
    """Make a job's folder and write its config there, with its start, as far as that is known."""
    make_folder(job)
    adapted = [_checkpoint(each) for each in job.adapted]
    place(job.ready, job.folder, _checkpoint(job.start), adapted if all(adapted) else [])


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
    before = read_progress(job.folder)
    progress = Progress(elapsed=before.elapsed, trained=before.trained)
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


def _tail(log: Path, count: int) -> list[str]:
    if not log.is_file():
        return []
    return log.read_text(encoding='utf-8', errors='replace').splitlines()[-count:]
