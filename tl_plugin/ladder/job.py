"""One run of the ladder, before and after it: what it is, where it lies, what it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from tl_plugin.launch.commands import tool_command
from tl_plugin.reliability.files import read_json

from .ready_config import CONFIG_NAME, content_key, ready_config
from .recommend import BASELINE
from .records import RunResult
from .run_rung import RESULT_NAME
from .rung import Rung


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
    def needs(self) -> list[Job]:
        """Jobs without whose checkpoints it can't run."""
        return [job for job in (self.start, self.adapted) if job]

    @property
    def after(self) -> list[Job]:
        """Jobs that end before it begins."""
        return [*self.needs, *([self.baseline] if self.baseline else [])]

    @property
    def label(self) -> str:
        """Rung and seed, for people."""
        return f'{self.rung.name} (seed {self.seed})'

    @property
    def config(self) -> Path:
        """The ready config."""
        return self.folder / CONFIG_NAME

    def result(self) -> RunResult | None:
        """What the run found, if it is finished and the config is still the one it ran."""
        found = read_json(self.folder / RESULT_NAME)
        return RunResult.from_json(found) if found and found['key'] == self.key else None

    def commands(self) -> list[str]:
        """The shell commands that make the run and its test again, from the current folder."""
        checkpoint = getattr(self.result(), 'checkpoint', '') or 'CHECKPOINT'
        return [
            tool_command('train.py', self.config),
            tool_command('test.py', self.config, checkpoint),
        ]


@dataclass(frozen=True)
class Failure:
    """A run that gave no result."""

    job: Job
    reason: str
    log: Path | None = None


def plan(
    cfg: Config,
    rungs: Iterable[Rung],
    seeds: Sequence[int],
    work_dir: Path,
    budget_source: float | None = None,
) -> list[Job]:
    """Lay out the runs, each after those that it stands on.

    Args:
        cfg: The config that the ladder stands on.
        rungs: From :func:`tl_plugin.ladder.rungs.select_rungs`.
        seeds: One run of each rung a seed.
        work_dir: Folder of the whole ladder; a run's is ``<work_dir>/<rung>/seed_<seed>``.
        budget_source: Points of source accuracy that a rung may lose; None leaves the rungs that
            keep to a budget their own.
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


def job_id(job: Job) -> tuple[str, int]:
    """Rung and seed, for programs."""
    return job.rung.name, job.seed
