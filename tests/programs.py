"""Programs of somebody else's, each in a fork of a process that has imported mmpretrain.

As :mod:`tests.forked`, but for what has to find this package by itself: nothing of it is imported.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]


def run_program(
    program: Any, *arguments: Any, cwd: Any = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a Python program, such as a tool of mmpretrain, to its end.

    Args:
        program: Its path.
        *arguments: Of its command line.
        cwd: Where. Defaults to None, here.
        env: Its environment, but for what Python and OpenMP read at their start. Defaults to None,
            this one.

    Returns:
        Its exit code, negative for a signal, and what it wrote on both channels.
    """
    told = [str(cwd or os.getcwd()), dict(env or os.environ), str(program), *map(str, arguments)]
    with tempfile.NamedTemporaryFile() as log:
        code = _server().start([json.dumps(told)], Path(log.name)).wait()
        return code, Path(log.name).read_text(encoding='utf-8', errors='replace')


@functools.cache
def _server() -> Any:
    warm = _warm()
    with mock.patch.object(warm, 'COMMAND', [sys.executable, __file__]):
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        server = warm.WarmServer({**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': paths})
    atexit.register(server.close)
    return server


def _warm() -> Any:
    """Return what a ladder forks its runs by, without its package."""
    path = ROOT / 'tl_plugin' / 'ladder' / 'warm.py'
    spec = importlib.util.spec_from_file_location('warm', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Be the program that the first argument tells of."""
    cwd, env, program, *arguments = json.loads(sys.argv[1])
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(cwd, program).parent)
    runpy.run_path(program, run_name='__main__')


if __name__ == '__main__':
    from tests.distributed import HOST, begin_at_once

    begin_at_once()
    warm = _warm()
    warm._PRELOAD, warm._MODULE = HOST, 'tests.programs'
    warm.main()
