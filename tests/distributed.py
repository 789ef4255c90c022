"""Run functions in several gloo processes, and programs, in forks of a process that has imported.

It has imported what mmengine and mmpretrain bring, and nothing of this package.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

# What a Runner needs so that DistributedDataParallel works without GPUs: mmengine passes
# device_ids unless the config already has that key.
CPU_MODEL_WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)

LIBRARIES = [
    'torch.distributed',
    'mmengine.runner',
    'mmpretrain.apis',
    'mmpretrain.datasets',
    'mmpretrain.engine',
    'mmpretrain.evaluation',
    'mmpretrain.models',
]


def run_distributed(
    function: Callable, *args: Any, world_size: int = 2, timeout: float = 240
) -> list:
    """Call ``function(*args)`` in ``world_size`` gloo processes.

    Inside, ``torch.distributed`` is initialised and the variables that a launcher sets (``RANK``,
    ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR``) are there, so that a Runner built with
    ``launcher='pytorch'`` and ``model_wrapper_cfg=CPU_MODEL_WRAPPER`` works.

    Args:
        function: A function that can be pickled: defined at the top of a module.
        *args: Its arguments, which must pickle too.
        world_size: The number of processes.
        timeout: Seconds until all of them are killed.

    Returns:
        What the function returned, by rank.

    Raises:
        RuntimeError: A process failed (its traceback is in the message), died or hung.
    """
    context = _fork_server()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_work, args=(function, args, rank, world_size, folder, timeout))
            for rank in range(world_size)
        ]
        with mock.patch.dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''):
            for process in processes:
                process.start()
        _wait(processes, folder, timeout)
        return [_result(folder, rank, processes[rank]) for rank in range(world_size)]


def _fork_server() -> Any:
    # It imports the libraries once; its children then start in milliseconds. It is single-threaded,
    # so that forking it is safe where forking the test process would not be.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
    return context


def run_program(
    program: Any, *arguments: Any, cwd: Any = None, env: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a Python program of somebody else's, such as a tool of mmpretrain, to its end.

    Args:
        program: Its path.
        *arguments: Of its command line.
        cwd: Where. Defaults to None, here.
        env: Its environment, but for what Python and OpenMP read at their start. Defaults to None,
            this one.

    Returns:
        Its exit code, negative for a signal, and what it wrote on both channels.
    """
    told = [str(part) for part in (program, *arguments)]
    with tempfile.NamedTemporaryFile() as log:
        place, environment = str(cwd or os.getcwd()), dict(env or os.environ)
        process = _fork_server().Process(target=_be, args=(told, place, environment, log.name))
        process.start()
        process.join()
        return process.exitcode, Path(log.name).read_text(encoding='utf-8', errors='replace')


def _be(told: list[str], place: str, environment: dict[str, str], log: str) -> None:
    """Be a program. It prints where it is told to from here on."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = told
    sys.path[0] = str(Path(place, told[0]).parent)
    begin_at_once()
    runpy.run_path(told[0], run_name='__main__')


def _wait(processes: list, folder: str, timeout: float) -> None:
    """Wait for all, but stop the others soon after one has failed: they would wait for it."""
    deadline = time.monotonic() + timeout
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(Path(folder).glob('*.error')):
            deadline = min(deadline, time.monotonic() + 5)
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.join()


def _result(folder: str, rank: int, process) -> Any:
    errors = sorted(Path(folder).glob('*.error'))
    if errors:
        raise RuntimeError('\n'.join(f'{path.stem}:\n{path.read_text()}' for path in errors))
    path = Path(folder, f'rank {rank}.result')
    if not path.exists():
        raise RuntimeError(f'rank {rank} died or hung (exit code {process.exitcode})')
    return pickle.loads(path.read_bytes())


def begin_at_once(change: Callable = setattr) -> None:
    """Spare each run of this process what takes longer than training does here.

    mmengine asks compilers and git for their versions, looks for mmcv once a layer, makes two
    figures to draw on, collects all garbage for each data set, waits for two seconds where a loader
    begins again, and has yapf format the config four times.

    Args:
        change: Sets an attribute of a module or class.
    """
    import mmengine.config.config as config_module
    import mmengine.dataset.base_dataset as dataset_module
    import mmengine.hooks.runtime_info_hook as info_module
    import mmengine.model.utils as model_module
    import mmengine.runner.loops as loops_module
    import mmengine.runner.runner as runner_module
    import yapf.yapflib.yapf_api as formatter
    from mmengine.visualization import Visualizer

    change(runner_module, 'collect_env', dict)
    git_hash = functools.cache(runner_module.get_git_hash)
    change(runner_module, 'get_git_hash', git_hash)
    change(info_module, 'get_git_hash', git_hash)
    has_mmcv = functools.cache(model_module.mmcv_full_available)
    change(model_module, 'mmcv_full_available', has_mmcv)
    change(dataset_module, 'gc', SimpleNamespace(collect=lambda: 0))
    change(loops_module, 'time', SimpleNamespace(sleep=lambda seconds: None))
    initialize, figures = Visualizer._initialize_fig, {}

    def figure(self, cfg):
        key = repr(cfg)
        if key not in figures:
            figures[key] = initialize(self, cfg)
        return figures[key]

    change(Visualizer, '_initialize_fig', figure)
    # The forks import it where they call it.
    for module in (config_module, formatter):
        if hasattr(module, 'FormatCode'):
            change(module, 'FormatCode', lambda text, **_: (text, True))


def _work(
    function: Callable, args: tuple, rank: int, world_size: int, folder: str, timeout: float
) -> None:
    import torch
    import torch.distributed as dist

    path = Path(folder, f'rank {rank}')
    try:
        torch.set_num_threads(1)
        begin_at_once()
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR='127.0.0.1',
        )
        dist.init_process_group(
            'gloo',
            init_method=f'file://{folder}/rendezvous',
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        result = pickle.dumps(function(*args))
        dist.barrier()
        path.with_suffix('.partial').write_bytes(result)
        path.with_suffix('.partial').rename(path.with_suffix('.result'))
    except BaseException:
        path.with_suffix('.error').write_text(traceback.format_exc())
    # Gloo now and then aborts when the interpreter shuts down, after all work is done.
    os._exit(0)
