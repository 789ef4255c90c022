"""How many runs go on at once: what a finished run has taken, and what the machine has left."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: A further run pays where it finds at least this part of the cores that it would keep busy.
LEAST_SHARE = 0.25
#: A run on a busy machine gets less of a core than it could use.
LEAST_CORES = 0.5
#: Over how many seconds the system averages its load.
LOAD_SECONDS = 60.0
#: Memory that is left to everything else, as a part of what a run took at most.
MEMORY_RESERVE = 0.2


@dataclass(frozen=True)
class Usage:
    """What a run takes of a machine.

    Args:
        cores: Cores that it keeps busy, on average, its loaders' workers included.
        memory: Bytes that it takes at most, those of its largest worker included.
    """

    cores: float
    memory: int


def own_usage(seconds: float) -> Usage:
    """Measure what this process and its finished children have taken so far.

    Args:
        seconds: For how long it has been running.
    """
    own, workers = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    busy = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
    unit = 1 if sys.platform == 'darwin' else 1024
    return Usage(busy / max(seconds, 1e-3), (own.ru_maxrss + workers.ru_maxrss) * unit)


def threads_of_a_run() -> int | None:
    """Return the number of threads that each run gets; None where the environment says it.

    It depends on the machine alone, never on how many runs go on at once, since the last digits of
    a sum depend on how many threads add it up. Half of the cores, at most four: small batches
    gain little from more.
    """
    return None if os.environ.get('OMP_NUM_THREADS') else min(4, max(1, cores() // 2))


def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    limit = _first_line('/sys/fs/cgroup/cpu.max').split()
    if len(limit) == 2 and limit[0].isdigit():
        count = min(count, max(1, int(limit[0]) // int(limit[1])))
    return count or 1


def free_memory() -> int | None:
    """Return the bytes that a new process can take; None where the machine doesn't say."""
    found = []
    for line in _text('/proc/meminfo').splitlines():
        if line.startswith('MemAvailable:'):
            found.append(int(line.split()[1]) * 1024)
    limit, taken = map(_first_line, (f'/sys/fs/cgroup/memory.{n}' for n in ('max', 'current')))
    if limit.isdigit() and taken.isdigit():
        found.append(int(limit) - int(taken))
    return min(found) if found else None


def runs_that_pay(usage: Usage, cores: float, others: float, running: int) -> int:
    """Return how many runs at once the cores carry.

    Runs that share cores are as fast as one after the other, and take the memory of all. So a
    further one starts only where it finds :data:`LEAST_SHARE` of what it would keep busy.

    Args:
        usage: Of one run.
        cores: Of the machine.
        others: Cores that other programs keep busy.
        running: Runs that go on now; what is running is never too much.

    Example:
        >>> run = Usage(cores=1.0, memory=0)
        >>> [runs_that_pay(run, 2, others, running=1) for others in (0, 0.5, 1.5)]
        [2, 2, 1]
    """
    carried = math.ceil((cores - others) / max(usage.cores, LEAST_CORES) - LEAST_SHARE)
    return max(1, running, carried)


@dataclass
class OwnLoad:
    """What the runs of a climb add to the system's load.

    Averaged over time as the system averages it: what has just ended is still part of it, and what
    has just begun is hardly any.

    Args:
        load: Processes that want a core, on average.
        runs: That have gone on since the last look.
    """

    load: float = 0.0
    runs: int = 0
    _looked: float | None = None

    def see(self, runs: int, cores: float, now: float) -> None:
        """Take in the time since the last look.

        Args:
            runs: That go on from now on.
            cores: That each of them keeps busy.
            now: In seconds.

        Example:
            >>> own = OwnLoad()
            >>> for runs, now in ((2, 0), (0, 600), (0, 660)):
            ...     own.see(runs, 1.0, now)
            ...     print(round(own.load, 2))
            0.0
            2.0
            0.74
        """
        if self._looked is not None:
            kept = math.exp((self._looked - now) / LOAD_SECONDS)
            self.load = kept * self.load + (1 - kept) * self.runs * cores
        self._looked, self.runs = now, runs


@dataclass
class Capacity:
    """Decides whether one more run may start on the CPUs.

    Args:
        jobs: Runs at once; None: as many as pay, and one before the first has been measured.
    """

    jobs: int | None = None
    _own: OwnLoad = field(default_factory=OwnLoad)

    def allows(self, running: Sequence[int | None], usage: Usage | None) -> bool:
        """Return whether a further run may start now.

        Args:
            running: The process of each run that goes on.
            usage: What a run takes; None while none has finished.
        """
        self._own.see(len(running), usage.cores if usage else 1.0, time.monotonic())
        allowed = self._has_room(running, usage)
        self._own.runs += allowed
        return allowed

    def _has_room(self, running: Sequence[int | None], usage: Usage | None) -> bool:
        if not running:
            return True
        if self.jobs is not None:
            return len(running) < self.jobs
        if usage is None:
            return False
        others = max(0.0, _load() - self._own.load)
        if len(running) >= runs_that_pay(usage, cores(), others, len(running)):
            return False
        free = free_memory()
        if free is None:
            return True
        # What has just started has yet to take its memory.
        to_come = sum(max(0, usage.memory - _resident(process)) for process in running)
        return free - to_come >= usage.memory * (1 + MEMORY_RESERVE)


def _load() -> float:
    """Return how many processes want a core, over the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def _resident(process: int | None) -> int:
    """Return the bytes that a process has now; 0 where that isn't known."""
    fields = _first_line(f'/proc/{process}/statm').split()
    return int(fields[1]) * os.sysconf('SC_PAGE_SIZE') if len(fields) > 1 else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding='utf-8')
    except OSError:
        return ''


def _first_line(path: str) -> str:
    return _text(path).partition('\n')[0]
