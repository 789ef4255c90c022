"""Where the runs of a climb go on: on the cores and GPUs of this machine, or on a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import tl_plugin

from .capacity import Capacity, Usage, threads_of_a_run
from .warm import WarmServer

if TYPE_CHECKING:
    from .climb import Run
    from .jobs import Job

_RUN_RUNG = 'tl_plugin.ladder.run_rung'
#: Tells glibc to keep the memory of activations from step to step. It gives blocks of a few MB back
#: to the system and asks for them again, page by page: 10% to 15% of a small network's training.
KEEP_MEMORY = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(1 << 32)}


class Process(Protocol):
    """A run that goes on somewhere, what ``subprocess.Popen`` is for one on this machine."""

    pid: int | None
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""

    def terminate(self) -> None:
        """End it."""

    def wait(self) -> int:
        """Return its exit code when it has ended."""


class Launcher(Protocol):
    """Starts runs."""

    #: Whether a run may be given to it before those that it stands on have ended.
    holds_back: bool

    def room(self, running: Sequence[Run], usage: Usage | None) -> str | None:
        """Return a name for the place where a further run may start now; None: there is none."""

    def start(self, job: Job, place: str, waits_for: Sequence[Run]) -> Process:
        """Start a run whose folder is ready."""

    def close(self, interrupted: bool) -> None:
        """End what goes on; called once, at the end of the climb."""


def arguments_of(job: Job) -> list[str]:
    """Return the arguments of :mod:`tl_plugin.ladder.run_rung` for a run."""
    runs = {
        '--from-run': [job.start] if job.start else [],
        '--adapted-run': job.adapted,
        '--source-run': [job.baseline] if job.baseline else [],
    }
    named = [[flag, *(str(run.folder) for run in found)] for flag, found in runs.items() if found]
    named.append(['--shared', str(job.shared)])
    return [str(job.folder), '--key', job.key, *(text for words in named for text in words)]


def torchrun(processes: int) -> list[str]:
    """Return what starts a rung, behind ``python`` and before :func:`arguments_of` a run.

    Args:
        processes: That train it together.
    """
    if processes == 1:
        return ['-m', _RUN_RUNG]
    together = ['--standalone', '--nproc_per_node', str(processes)]
    return ['-m', 'torch.distributed.run', *together, '-m', _RUN_RUNG]


class ThisMachine:
    """Runs on this machine, side by side on its cores or its GPUs.

    Args:
        devices: GPUs, as in ``CUDA_VISIBLE_DEVICES``. Defaults to none: the runs share the cores.
        jobs: Runs at once; None for as many as pay, see :mod:`tl_plugin.ladder.capacity` (on GPUs:
            one on each group of them). Defaults to None.
        gpus_per_rung: GPUs that train one rung together by DDP. Defaults to 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    holds_back = False

    def __init__(
        self,
        devices: Sequence[str] | None = None,
        jobs: int | None = None,
        gpus_per_rung: int = 1,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f'--jobs must be auto or at least 1, got {jobs}')
        devices = list(devices or [])
        if gpus_per_rung < 1 or (gpus_per_rung > 1 and gpus_per_rung > len(devices)):
            raise ValueError(
                f'--gpus-per-rung {gpus_per_rung} needs as many GPUs, and there '
                f'{"is" if len(devices) == 1 else "are"} {len(devices)}: give fewer, or name the '
                'GPUs by --devices'
            )
        self._processes = gpus_per_rung
        groups = range(0, len(devices) - gpus_per_rung + 1, gpus_per_rung)
        self._places = [','.join(devices[i : i + gpus_per_rung]) for i in groups][:jobs]
        self._capacity = None if self._places else Capacity(jobs)
        self._threads = None if self._places else threads_of_a_run()
        self._server: WarmServer | None = None

    def get_ready(self) -> None:
        """Begin to import what runs need, while the climb is being planned."""
        if not self._places:
            self._server = WarmServer({**KEEP_MEMORY, **environment(self._threads)})

    def room(self, running: Sequence[Run], usage: Usage | None) -> str | None:
        """Return the GPUs of a further run, '' on the CPUs; None where there is no room."""
        if self._capacity is None:
            taken = [run.place for run in running]
            return next((place for place in self._places if place not in taken), None)
        return '' if self._capacity.allows([run.process.pid for run in running], usage) else None

    def start(self, job: Job, place: str, waits_for: Sequence[Run] = ()) -> Process:
        """Start a run in a process of its own."""
        arguments = [*arguments_of(job), '--began', str(time.time())]
        if not place:
            # A process that has used a GPU can't be forked, so that each run starts one there.
            more = ['--threads', str(self._threads)] if self._threads else []
            if self._server is None:
                self.get_ready()
            return self._server.start([*arguments, *more], job.log)
        command = [sys.executable, *torchrun(self._processes), *arguments]
        command += ['--launcher', 'pytorch'] if self._processes > 1 else []
        with job.log.open('ab') as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), 'CUDA_VISIBLE_DEVICES': place},
            )

    def close(self, interrupted: bool = False) -> None:
        """End the process that runs are forked from."""
        if self._server is not None:
            self._server.close()


def environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a run.

    Args:
        threads: That it computes with. Defaults to None, what the environment says.
    """
    package = str(Path(tl_plugin.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get('PYTHONPATH')])]
    given: dict[str, Any] = {} if threads is None else {'OMP_NUM_THREADS': str(threads)}
    return {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(paths),
        'PYTHONUNBUFFERED': '1',
        **given,
    }


def visible_devices() -> list[str]:
    """Return the GPUs that runs may have for themselves, as in ``CUDA_VISIBLE_DEVICES``."""
    import torch

    count = torch.cuda.device_count()
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    return listed.split(',')[:count] if listed else [str(index) for index in range(count)]
