"""Run several processes on a machine without GPUs, which mmengine's launchers don't support.

mmengine selects a CUDA device for every process and passes ``device_ids`` to
``DistributedDataParallel``, and both fail on a CPU. It keeps, however, a process group that
exists already and a ``device_ids`` that the config sets.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS, DefaultScope
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from tl_plugin.stack.options import type_name

# After this time the run ends if a process hangs, as under NCCL. gloo would wait for 30 minutes.
_TIMEOUT_SECONDS = 600


def runs_on_cpus(cfg: Config) -> bool:
    """Return whether this is one of several processes of a run on a machine without GPUs."""
    return cfg.get('launcher', 'none') != 'none' and get_device() == 'cpu'


def wrap_for_cpus(cfg: Config) -> None:
    """Set, in the config, a model wrapper that works without GPUs.

    Args:
        cfg: A config, changed in place; of a ``Runner``, or of a ``FlexibleRunner``, whose strategy
            has the wrapper.
    """
    strategy = cfg.get('strategy')
    wrapper = (strategy or cfg).get('model_wrapper' if strategy else 'model_wrapper_cfg')
    if not wrapper and type_name(strategy or {}) == 'FSDPStrategy':
        wrapper = dict(type='MMFullyShardedDataParallel')
    wrapper = wrapper or dict(
        type='MMDistributedDataParallel',
        # What mmengine passes to the wrapper that it would have chosen itself.
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        kind = MODEL_WRAPPERS.get(wrapper.get('type', 'MMDistributedDataParallel'))
    if kind is not None and issubclass(kind, DistributedDataParallel):
        wrapper['device_ids'] = None
    elif kind is not None and issubclass(kind, FullyShardedDataParallel):
        wrapper['device_id'] = 'cpu'
    if strategy:
        strategy.model_wrapper = wrapper
    else:
        cfg.model_wrapper_cfg = wrapper


def join_cpu_group(cfg: Config) -> None:
    """Join the processes of a run by gloo, before the Runner is built.

    Args:
        cfg: The run's config. What its launcher says stands in the environment, see
            :func:`~tl_plugin.launch.cluster.set_variables`.
    """
    if dist.is_initialized():
        return
    seconds = (cfg.get('env_cfg') or {}).get('dist_cfg', {}).get('timeout')
    timeout = timedelta(seconds=seconds or _TIMEOUT_SECONDS)
    dist.init_process_group('gloo', timeout=timeout)


@contextmanager
def naming_synchronised_norms() -> Iterator[None]:
    """Say how to run a model with ``SyncBatchNorm``, which torch has for GPUs alone.

    Raises:
        ValueError: Where a Runner that is built inside has such layers on CPUs.
    """
    try:
        yield
    except ValueError as error:
        if 'SyncBatchNorm' not in str(error):
            raise
        raise ValueError(
            f'{error}, and there is none here. On CPUs leave out sync_bn and norm_cfg=dict('
            "type='SyncBN'), so that each process normalises by its own batch, or run one "
            'process with a larger batch'
        ) from error


def leave_cpu_group() -> None:
    """End the process with success if it is one of several joined by gloo.

    While the interpreter shuts down, gloo's threads sometimes abort the process (in about 2% of
    runs), and the launcher reports a finished run as failed.
    """
    if not dist.is_initialized() or dist.get_backend() != 'gloo':
        return
    dist.barrier()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
