"""Refuse configs whose parts contradict each other, before anything is built."""

from __future__ import annotations

from mmengine.config import Config

from tl_plugin.stack.options import type_name

# Loops that read the source alone.
_STOCK_LOOPS = ('', 'EpochBasedTrainLoop', 'IterBasedTrainLoop')


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
