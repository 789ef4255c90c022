"""Run a function in several gloo processes on one machine and collect what each returns."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

# What a Runner needs so that DistributedDataParallel works without GPUs: mmengine passes
# device_ids unless the config already has that key.
CPU_MODEL_WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)

#: What mmengine and mmpretrain import late.
HOST = [
    'torch.distributed',
    'mmengine.runner',
    'mmpretrain.apis',
    'mmpretrain.datasets',
    'mmpretrain.engine',
    'mmpretrain.evaluation',
    'mmpretrain.models',
]
LIBRARIES = [
    *HOST,
    'tl_plugin.analysis.scan',
    'tl_plugin.engine',
    'tl_plugin.launch.runs',
    'tl_plugin.models',
    'tl_plugin.reliability',
    'tests.tiny_runs',
    'tests.toy',
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
    # The fork server imports the libraries once; its children then start in milliseconds. It is
    # single-threaded, so that forking it is safe where forking the test process would not be.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(LIBRARIES)
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
