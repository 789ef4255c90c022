"""Start runs without importing torch and mmpretrain again: forks of a process that has them.

``python -m tl_plugin.ladder.warm`` imports everything that a run needs, then forks a process for
each line that it reads. A run has a process of its own, as a newly started program would, and
starts in milliseconds instead of seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What a run uses and imports late, beside :mod:`tl_plugin.ladder.run_rung`; matplotlib draws in
#: every run's visualizer, and scikit-learn took half of a short run's time.
_PRELOAD = (
    'matplotlib.backends.backend_agg',
    'matplotlib.figure',
    'sklearn.linear_model',
    'sklearn.datasets',
    'mmpretrain.datasets',
    'mmpretrain.engine',
    'mmpretrain.evaluation',
    'mmpretrain.models',
    'mmpretrain.visualization',
    'tl_plugin.ladder.run_rung',
)
#: Starts the process that forks.
COMMAND = (sys.executable, '-m', 'tl_plugin.ladder.warm')
_POLL_SECONDS = 0.05
_MODULE = 'tl_plugin.ladder.run_rung'


class WarmProcess:
    """A forked run, with what the ladder asks of a ``subprocess.Popen``."""

    def __init__(self, server: WarmServer) -> None:
        self._server = server
        self.pid: int | None = None
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        self._server.read()
        return self.returncode

    def terminate(self) -> None:
        """End it by SIGTERM."""
        self._server.terminate(self)

    def wait(self) -> int:
        """Return its exit code when it has ended."""
        while self.poll() is None:
            time.sleep(_POLL_SECONDS)
        return self.returncode


class WarmServer:
    """The process that imports once and forks for every run.

    Args:
        environment: Of the process and all runs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = _start(dict(environment))
        os.set_blocking(self._process.stdout.fileno(), False)
        self._runs: list[WarmProcess] = []
        self._rest = b''

    def start(self, arguments: Sequence[str], log: Path) -> WarmProcess:
        """Start a run, as ``python -m tl_plugin.ladder.run_rung ARGUMENTS >>LOG 2>&1`` would.

        Args:
            arguments: Of the command.
            log: File for all that it prints.
        """
        self._ask(dict(run=len(self._runs), arguments=list(arguments), log=str(log)))
        self._runs.append(WarmProcess(self))
        return self._runs[-1]

    def terminate(self, run: WarmProcess) -> None:
        """End a run, also one that hasn't been forked yet."""
        self._ask(dict(end=self._runs.index(run)))

    def read(self) -> None:
        """Take in what the server has said of its runs."""
        while chunk := self._process.stdout.read(1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b'\n')
            for line in map(json.loads, lines):
                vars(self._runs[line.pop('run')]).update(line)
        if self._process.poll() is not None:
            for run in self._runs:
                if run.returncode is None:
                    run.returncode = self._process.returncode or 1

    def close(self) -> None:
        """End the server, and with it whatever still runs."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self._runs:
            self._process.terminate()  # it may still be importing
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict) -> None:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b'\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()  # read() tells the runs


def _start(environment: dict[str, str]) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen(list(COMMAND), stdin=pipe, stdout=pipe, env=environment)


class _Server:
    """The other side: the main loop of this module's process."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._pids: dict[int, int] = {}
        self._ended: set[int] = set()

    def serve(self) -> None:
        rest, is_open = b'', True
        while is_open or self._pids:
            if is_open and select.select([0], [], [], _POLL_SECONDS)[0]:
                chunk = os.read(0, 1 << 16)
                is_open = bool(chunk)
                *lines, rest = (rest + chunk).split(b'\n')
                for line in lines:
                    self._take(json.loads(line))
            if not is_open:
                for pid in self._pids:
                    os.kill(pid, signal.SIGTERM)
                time.sleep(_POLL_SECONDS)
            self._reap()

    def _take(self, request: dict) -> None:
        if 'end' in request:
            running = [pid for pid, run in self._pids.items() if run == request['end']]
            for pid in running:
                os.kill(pid, signal.SIGTERM)
            return
        run = request['run']
        pid = os.fork()
        if not pid:
            _become(request['arguments'], request['log'], self._answers)
        self._pids[pid] = run
        self._say(run=run, pid=pid)

    def _reap(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            run = self._pids.pop(pid, None)
            if run is not None:
                self._say(run=run, returncode=os.waitstatus_to_exitcode(status))

    def _say(self, **answer: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # the ladder has gone: standard input says so
            os.write(self._answers, json.dumps(answer).encode() + b'\n')


def _become(arguments: Sequence[str], log: str, answers: int) -> None:
    """Be a run from here on. Never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        os.close(answers)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        run_rung = importlib.import_module(_MODULE)
        sys.argv = [run_rung.__file__, *arguments]
        run_rung.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()  # ends the workers of loaders
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def main() -> None:
    """Import, then fork for every line of standard input until it is closed."""
    # The ladder decides what an interrupt ends; what imports print is no answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)
    for module in _PRELOAD:
        with contextlib.suppress(ImportError):  # a run that needs it says so
            importlib.import_module(module)
    # What is imported stays. Else each run searches it for garbage, whenever it builds a data set,
    # and gets copies of the pages that it shares with this process.
    gc.collect()
    gc.freeze()
    _Server(answers).serve()


if __name__ == '__main__':
    main()
