"""Refuse configs whose parts contradict each other, before anything is built."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmpretrain.registry import OPTIMIZERS

from tl_plugin.stack.messages import did_you_mean
from tl_plugin.stack.options import type_name

# Loops that read the source alone.
_STOCK_LOOPS = ('', 'EpochBasedTrainLoop', 'IterBasedTrainLoop')


def read_config(path: Path) -> Config:
    """Read a config file.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no Python.
    """
    try:
        return Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{path} is no config in Python: {error}') from error


def check_target_is_read(cfg: Config) -> None:
    """Refuse a ``train_cfg.target_dataloader`` that the config's training loop doesn't read.

    Args:
        cfg: A config.

    Raises:
        ValueError: If that is so; names the hooks of the config that take a target of their own.
    """
    loop = cfg.get('train_cfg') or {}
    if 'target_dataloader' not in loop or type_name(loop) not in _STOCK_LOOPS:
        return
    own = [
        f'custom_hooks.{type_name(hook)}.target_dataloader'
        for hook in cfg.get('custom_hooks') or []
        if type_name(hook) in ('AdaBNHook', 'QualityMatchHook', 'TestTimeAdaptationHook')
    ]
    fix = 'name a strategy that trains on a target (--strategy dann, ...), or leave it out'
    if own:
        fix = f'write {" or ".join(own)} instead, or {fix}'
    raise ValueError(
        f'train_cfg.target_dataloader is set, but {type_name(loop) or "the training loop"} reads '
        f'the source alone: {fix}'
    )


def check_model(cfg: Config) -> None:
    """Refuse a config without a model.

    Args:
        cfg: A config.

    Raises:
        ValueError: If it has none.
    """
    if 'model' not in cfg:
        raise ValueError(
            f'{cfg.filename or "the config"} has no model: expected a config of mmpretrain, with '
            'model, train_dataloader, train_cfg and optim_wrapper'
        )


def check_parts(cfg: Config) -> None:
    """Refuse a config without a model, with an unknown optimizer, or that trains for no time.

    Args:
        cfg: A config.

    Raises:
        ValueError: If that is so.
    """
    check_model(cfg)
    loop = cfg.get('train_cfg') or {}
    for key in ('max_epochs', 'max_iters', 'val_interval'):
        number = loop.get(key)
        if isinstance(number, (int, float)) and number < 1:
            raise ValueError(f'train_cfg.{key} is {number}, expected a number of at least 1')
    optimizer = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('type')
    if isinstance(optimizer, str) and OPTIMIZERS.get(optimizer) is None:
        # mmengine looks at its arguments before it finds that there is none.
        known = [*OPTIMIZERS.module_dict, *OPTIMIZERS.parent.module_dict]
        raise ValueError(
            f'optim_wrapper.optimizer.type is {optimizer!r}, and no optimizer has this name.'
            f'{did_you_mean(optimizer, known)}'
        )
