"""What the launch adds to every run, so that faults cost as little as they can."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

_HOOKS = 'tl_plugin.engine.hooks'
#: In this order; one that the config has already is left to it.
ADDED = ('ExactResumeHook', 'BadImagesHook', 'FiniteLossHook', 'LoadReportHook')


def make_fault_tolerant(cfg: Config) -> Config:
    """Adds hooks that survive faults, and writes checkpoints whole.

    They are named by their dotted paths, so that mmpretrain's own tools run the config too.

    Args:
        cfg: A config. It isn't changed.

    Returns:
        A new one: ``custom_hooks`` gets those of :data:`ADDED` that it hasn't, and a stock
        ``CheckpointHook`` becomes an ``AtomicCheckpointHook`` with its arguments.
    """
    cfg = copy.deepcopy(cfg)
    hooks = list(cfg.get('custom_hooks') or [])
    present = {_name(hook) for hook in hooks}
    added = [name for name in ADDED if name not in present]
    cfg.custom_hooks = [*hooks, *(dict(type=f'{_HOOKS}.{name}') for name in added)]
    defaults = cfg.get('default_hooks') or {}
    checkpoint = defaults.get('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoint is not None and _name(checkpoint) == 'CheckpointHook':
        cfg.default_hooks = {
            **defaults, 'checkpoint': {**checkpoint, 'type': f'{_HOOKS}.AtomicCheckpointHook'}
        }
        added.append('AtomicCheckpointHook')
    if added:
        print_log(
            f'Added to the config: {", ".join(added)}. See their docstrings in {_HOOKS}.',
            logger='current',
        )
    return cfg


def _name(hook: Any) -> str:
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    return kind.split('.')[-1] if isinstance(kind, str) else getattr(kind, '__name__', '')
