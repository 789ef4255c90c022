"""Add to a config what makes its run fault-tolerant, and check where it starts from."""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.mistakes import is_mistake
from tl_plugin.stack.options import type_name
from tl_plugin.strategies import unite_imports

from .checkpoints import check_resumable, newest_whole_checkpoint, read_whole, weights_of

#: Hook -> room, in this order; a hook that the config already has is not added.
ADDED = {
    'ExactResumeHook': 'reliability',
    'BadImagesHook': 'reliability',
    'DataCheckHook': 'reliability',
    'MonitorCheckHook': 'engine.hooks',
    'FiniteLossHook': 'reliability',
    'LoadReportHook': 'reliability',
    'CollapsedPredictionsHook': 'engine.hooks',
}
#: Where a config that is resumed keeps the ``load_from`` that its run began with.
STARTED_FROM = 'started_from'


def make_fault_tolerant(cfg: Config) -> Config:
    """Add hooks that survive faults, and replace a stock ``CheckpointHook``.

    They are named by their dotted paths, so that mmpretrain's own tools run the config too.

    Args:
        cfg: A config. It isn't changed.

    Returns:
        A new config: ``custom_hooks`` gets those of :data:`ADDED` that it lacks, and a stock
        ``CheckpointHook`` becomes an ``AtomicCheckpointHook`` with its arguments. Its
        ``custom_imports`` name this package, so that programs that read the config that the run
        writes can load its checkpoints.
    """
    cfg = copy.deepcopy(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    present = {type_name(hook) for hook in hooks}
    added = [name for name in ADDED if name not in present]
    cfg.custom_hooks = [*hooks, *(dict(type=f'tl_plugin.{ADDED[name]}.{name}') for name in added)]
    defaults = cfg.get('default_hooks') or {}
    checkpoint = defaults.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint is not None and type_name(checkpoint) == 'CheckpointHook':
        cfg.default_hooks = {
            **defaults,
            'checkpoint': {**checkpoint, 'type': 'tl_plugin.reliability.AtomicCheckpointHook'},
        }
        added.append('AtomicCheckpointHook')
    cfg.custom_imports = unite_imports(
        cfg.get('custom_imports'), dict(imports=['tl_plugin'], allow_failed_imports=False)
    )
    if added:
        print_log(
            f'Added to the config: {", ".join(added)}. Their docstrings say what they do; --plain '
            'leaves them out.',
            logger='current',
        )
    return cfg


def set_resume(cfg: Config, resume: str) -> None:
    """Write into a config which checkpoint to resume from, if there is one.

    Args:
        cfg: Changed in place. Its ``load_from`` is kept as :data:`STARTED_FROM`.
        resume: 'auto' for the newest whole checkpoint in the work folder, or a checkpoint's path.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        BrokenCheckpointError: If no run can go on from it.
    """
    found: str | Path | None = resume
    if resume == 'auto':
        found = newest_whole_checkpoint(cfg.work_dir)
    elif '://' not in resume:
        _check_there(resume, '--resume')
        check_resumable(resume)
    if found is not None:
        cfg[STARTED_FROM] = cfg.get('load_from')
        cfg.resume, cfg.load_from = True, str(found)
        print_log(f'Resuming from {found}.', logger='current')
    else:
        # mmengine would train on from random weights here and forget the config's `load_from`.
        print_log(f'no whole checkpoint in {cfg.work_dir}: a new run', logger='current')
        cfg.resume = False


def check_start(cfg: Config) -> None:
    """Check the local checkpoint that a run starts from, before anything is built.

    Args:
        cfg: A config.

    Raises:
        FileNotFoundError: If ``load_from`` is a file that isn't there.
        BrokenCheckpointError: If it is damaged, or holds no weights or more than data.
    """
    start = cfg.get('load_from')
    if start and '://' not in str(start):
        _check_there(start, 'load_from')
        if Path(start).is_file():  # sharded checkpoints are folders
            weights_of(read_whole(start), start)


def _check_there(path: str | Path, flag: str) -> None:
    path = Path(path).expanduser()
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob('*.pth'))
        hint = f'; beside it are {", ".join(others)}' if others else ''
        raise FileNotFoundError(f'{flag}: no checkpoint at {path.absolute()}{hint}')
    if (path / 'last_checkpoint').is_file():  # not in sharded checkpoints, which are folders too
        inside = short_list(sorted(other.name for other in path.glob('*.pth')))
        raise ValueError(f'{flag}: {path.absolute()} is the folder of a run: name one of {inside}')


def attempt(what: str, make: Callable[[], Any], left_out: dict[str, str] | None = None) -> Any:
    """Make something optional; log and record an error instead of raising it.

    The log has its traceback where it is a defect, not where users can fix it.

    Args:
        what: Its name.
        make: Function that makes it.
        left_out: Receives ``what`` -> the error. Defaults to None.

    Returns:
        What ``make`` returns; None after an error.

    Example:
        >>> left_out = {}
        >>> attempt('half', lambda: 1 / 2, left_out), left_out
        (0.5, {})
    """
    try:
        return make()
    except Exception as error:  # a finished run doesn't fail by an extra
        reason = f'{type(error).__name__}: {error}'
        if left_out is not None:
            left_out[what] = reason
        trace = '' if is_mistake(error) else f'\n{traceback.format_exc()}'
        print_log(
            f'Left out: {what}, for {reason}{trace}',
            logger='current',
            level=logging.WARNING,
        )
        return None
