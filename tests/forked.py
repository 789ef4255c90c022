"""Tools of this package, each in a fork of a process that has imported what they need.

A tool has a process of its own, as from a shell, without the seconds that importing takes. The
process that a ladder forks its runs from is a fork, too.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import begin_at_once
from tl_plugin.ladder import warm

ROOT = Path(__file__).resolve().parents[1]
_PRELOAD = (
    *warm._PRELOAD,
    'timm',
    'torchvision.models',
    'tl_plugin.analysis.diagnose',
    'tl_plugin.apis.export',
    'tl_plugin.ladder.run_ladder',
    'tl_plugin.launch.runs',
)


def is_tool(program: Any) -> bool:
    """Return whether a path is that of a tool of this package."""
    return Path(program).parent == ROOT / 'tools'


def run_tool(
    program: Any, *arguments: Any, cwd: Any = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a tool to its end.

    Args:
        program: Its path.
        *arguments: Of its command line.
        cwd: Where. Defaults to None, here.
        env: Its environment, but for what Python and OpenMP read at their start. Defaults to None,
            this one.

    Returns:
        Its exit code, negative for a signal, and what it wrote on both channels.
    """
    with tempfile.NamedTemporaryFile() as log:
        code = start_tool(program, *arguments, log=Path(log.name), cwd=cwd, env=env).wait()
        return code, Path(log.name).read_text(encoding='utf-8', errors='replace')


def start_tool(
    program: Any,
    *arguments: Any,
    log: Path,
    cwd: Any = None,
    env: Mapping[str, str] | None = None,
) -> warm.WarmProcess:
    """Start a tool, see :func:`run_tool`.

    Args:
        program: Its path.
        *arguments: Of its command line.
        log: File for all that it prints.
        cwd: Where. Defaults to None, here.
        env: Its environment. Defaults to None, this one.
    """
    told = [str(cwd or os.getcwd()), dict(env or os.environ), str(program), *map(str, arguments)]
    return _server().start([json.dumps(told)], log)


@functools.cache
def _server() -> warm.WarmServer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, 'COMMAND', [sys.executable, '-m', 'tests.forked'])
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        server = warm.WarmServer({**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths})
    atexit.register(server.close)
    return server


class _Fork:
    """What a ladder asks of the ``subprocess.Popen`` that its runs are forked from.

    It is forked before the ladder begins: after a backward pass no fork can make another one. A
    second one of the same tool is a program.
    """

    def __init__(self) -> None:
        (asked, ask), (answers, answer) = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            for end in (ask, answers):
                os.close(end)
            os.dup2(asked, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the ladder's own is no answer here
            try:
                warm._Server(answer).serve()
            finally:
                os._exit(0)
        for end in (asked, answer):
            os.close(end)
        self.stdin, self.stdout = os.fdopen(ask, 'wb'), os.fdopen(answers, 'rb')

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reap(0)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def main() -> None:
    """Be the tool that the first argument tells of."""
    cwd, env, program, *arguments = json.loads(sys.argv[1])
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    warm._MODULE = 'tl_plugin.ladder.run_rung'
    forks, start = [_Fork()], warm._start
    warm._start = lambda environment: forks.pop() if forks else start(environment)
    try:
        runpy.run_path(program, run_name='__main__')
    except SystemExit as error:
        if isinstance(error.code, str):  # which Python itself prints
            print(error.code, file=sys.stderr)
        raise


if __name__ == '__main__':
    warm._PRELOAD, warm._MODULE = _PRELOAD, 'tests.forked'
    begin_at_once()
    warm.main()
