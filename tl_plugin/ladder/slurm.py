"""Runs as jobs of a slurm cluster, each of which waits there for those that it stands on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tl_plugin.reliability.files import read_json, write_json

from .launchers import arguments_of, environment, torchrun

if TYPE_CHECKING:
    from .capacity import Usage
    from .climb import Run
    from .jobs import Job

JOB_NAME = 'slurm.json'
#: Seconds between two looks at the queue, and for a result to reach this machine's view of a disk.
INTERVAL, GRACE = 5.0, 15.0


class SlurmJob:
    """A job in the queue, with what the ladder asks of a process."""

    pid = None

    def __init__(self, cluster: Slurm, number: str, job: Job) -> None:
        self._cluster, self.number, self._job = cluster, number, job
        self.returncode: int | None = None
        self._gone: float | None = None

    def poll(self) -> int | None:
        """Return 0 or 1 when the job has left the queue, by whether there is a result."""
        if self.returncode is None and not self._cluster.knows(self.number):
            self._gone = self._gone or time.monotonic()
            if self._job.result():
                self.returncode = 0
            elif time.monotonic() - self._gone >= GRACE:
                self.returncode = 1
        return self.returncode

    def terminate(self) -> None:
        """Take it out of the queue."""
        _run('scancel', self.number)

    def wait(self) -> int:
        """Don't wait: the cluster ends it."""
        return self.poll() or 0


class Slurm:
    """Submits each run by ``sbatch`` at once, with ``--dependency`` on those that it stands on.

    Runs go on when the ladder is interrupted; the same command finds those that are still in the
    queue, and collects what has ended.

    Args:
        partition: Of the jobs. Defaults to None, the cluster's own.
        account: To charge. Defaults to None, the user's own.
        gpus_per_rung: GPUs of a job, on one node. 0: none, on a cluster of CPUs. Defaults to 1.
        options: What else ``sbatch`` should know, such as ``('--time=2:00:00',)``.

    Raises:
        ValueError: If there is no slurm here, or the number of GPUs is negative.
    """

    holds_back = True

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        gpus_per_rung: int = 1,
        options: Sequence[str] = (),
    ) -> None:
        missing = [name for name in ('sbatch', 'squeue', 'scancel') if not shutil.which(name)]
        if missing:
            raise ValueError(
                f'--launcher slurm: there is no {missing[0]} here: run the ladder on a login node '
                'of the cluster'
            )
        if gpus_per_rung < 0:
            raise ValueError(f'--gpus-per-rung must be at least 0, got {gpus_per_rung}')
        named = {'partition': partition, 'account': account}
        self._options = [f'--{name}={value}' for name, value in named.items() if value]
        self._options += [f'--gres=gpu:{gpus_per_rung}'] if gpus_per_rung else []
        self._options += options
        self._processes = max(1, gpus_per_rung)
        self._queue: set[str] = set()
        self._looked = float('-inf')
        self._submitted: list[SlurmJob] = []

    def room(self, running: Sequence[Run], usage: Usage | None) -> str | None:
        """Return '', for the queue has room for all."""
        return ''

    def start(self, job: Job, place: str, waits_for: Sequence[Run]) -> SlurmJob:
        """Submit a run, or find it in the queue, where an interrupted ladder has left it.

        Raises:
            ValueError: If ``sbatch`` refuses it; with what it says.
        """
        before = read_json(job.folder / JOB_NAME) or {}
        number = before.get('number')
        if not number or before.get('key') != job.key or not self.knows(number):
            number = self._submit(job, waits_for)
            write_json(job.folder / JOB_NAME, dict(number=number, key=job.key))
            self._queue.add(number)
        self._submitted.append(SlurmJob(self, number, job))
        return self._submitted[-1]

    def _submit(self, job: Job, waits_for: Sequence[Run]) -> str:
        needs = [run.process.number for run in waits_for if run.job in job.needs]
        after = [run.process.number for run in waits_for if run.job not in job.needs]
        kinds = {'afterok': needs, 'afterany': after}
        dependency = ','.join(':'.join([kind, *found]) for kind, found in kinds.items() if found)
        command = [sys.executable, *torchrun(self._processes), *arguments_of(job)]
        command += ['--launcher', 'pytorch'] if self._processes > 1 else []
        done = _run(
            'sbatch',
            '--parsable',
            f'--job-name={job.rung.name}-{job.seed}',
            f'--output={job.log.absolute()}',
            '--open-mode=append',
            *([f'--dependency={dependency}', '--kill-on-invalid-dep=yes'] if dependency else []),
            *self._options,
            f'--wrap={shlex.join(command)}',
        )
        number = done.stdout.strip().partition(';')[0]  # with the cluster's name behind it, if any
        if done.returncode or not re.fullmatch(r'\d+', number):
            said = (done.stderr or done.stdout).strip()
            raise ValueError(f'sbatch refused {job.label}: {said}')
        return number

    def knows(self, number: str) -> bool:
        """Return whether a job is in the queue, by a look at most every :data:`INTERVAL`."""
        if time.monotonic() - self._looked >= INTERVAL:
            done = _run('squeue', '--noheader', '--me', '--format=%i')
            if done.returncode == 0:  # else the controller is busy: what was known stays
                self._queue = set(done.stdout.split())
            self._looked = time.monotonic()
        return number in self._queue

    def close(self, interrupted: bool = False) -> None:
        """Say, after an interrupt, what goes on and how to end it."""
        numbers = [job.number for job in self._submitted if job.returncode is None]
        if interrupted and numbers:
            print(
                f'\n{len(numbers)} jobs stay in the queue. The same command collects what they '
                f'find; this ends them:\n  scancel {" ".join(numbers)}'
            )


def _run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment()}
    )
