"""Climb the ladder: each rung and seed is a training run in a process of its own."""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tl_plugin.reporting.progress import ProgressDisplay

from .capacity import Usage
from .jobs import Job, failure_reason, failure_report, prepare_folder
from .launchers import Launcher, Process, ThisMachine
from .progress import read_progress
from .records import FailedRun
from .run_records import time_waited

POLL_SECONDS = 0.2


class Stop(Protocol):
    """What may end a climb before its last rung, see :class:`~tl_plugin.ladder.limits.Limits`."""

    @property
    def acts(self) -> bool:
        """Whether it may end this climb, so that what is cheap comes first."""

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
    Beside others the longest run starts first, after the cheap ones, so that it isn't alone at the
    end.

    Args:
        jobs: From :func:`~tl_plugin.ladder.jobs.plan`.
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
        known = ((job.id, job.result()) for job in jobs)
        self._results = {name: found for name, found in known if found and not found.ended_early}
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
                while job := next(filter(self._take, self._in_turn()), None):
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

    def _in_turn(self) -> list[Job]:
        """Return the waiting jobs, those that ought to start first at the front."""
        waiting = list(self._waiting)
        if not self._running or (self._stop and self._stop.acts):
            return waiting
        cheap = list(itertools.takewhile(lambda job: not job.cost, waiting))
        return cheap + sorted(waiting[len(cheap) :], key=lambda job: -job.cost)

    def _take(self, job: Job) -> bool:
        """Return whether a job waits no longer."""
        return self._settle(job) or self._start(job)

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
        changed = prepare_folder(job)
        self._display.start(job.label, changed)
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
        jobs: From :func:`~tl_plugin.ladder.jobs.plan`.
        display: Shows their progress.
        stop: May end the climb. Defaults to None, never.
        launcher: Where runs go on. Defaults to None, one at a time on this machine.

    Returns:
        The failed runs; the rungs that the climb stopped before -> the reason.
    """
    return Climb(jobs, display, stop, launcher).run()


def finish(run: Run, display: ProgressDisplay) -> FailedRun | None:
    """Show how a run ended.

    Returns:
        The failure; None where the run has a result.
    """
    job = run.job
    result = job.result()
    if result:
        found = f'{result.in_words()} in {result.seconds:.0f} s'
        if run.process.returncode:
            # What comes after the result is optional, even if it ended the process.
            reason = failure_reason(run.process.returncode, job.log)
            found += f'; what comes after the result was left out: {reason} (see {job.log})'
        display.finish(job.label, found)
        return None
    reason = failure_reason(run.process.returncode, job.log)
    display.finish(job.label, failure_report(job, reason), failed=True)
    return FailedRun(*job.id, reason, str(job.log))
