"""Checkpoints that parts of a model name for themselves: ``init_cfg=dict(type='Pretrained')``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmengine.runner import CheckpointLoader
from torch import nn

from tl_plugin.stack.options import type_name

from .checkpoints import read_whole, weights_of


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict]]:
    """The outermost modules that begin with a checkpoint.

    Args:
        model: A model whose weights aren't initialised yet.

    Yields:
        The module's name, the module, and its ``init_cfg``.
    """
    outer: list[str] = []
    for name, module in model.named_modules():
        inside = any(not above or name.startswith(f'{above}.') for above in outer)
        if inside or getattr(module, 'is_init', False):
            continue
        configs = getattr(module, 'init_cfg', None) or []
        for init in configs if isinstance(configs, (list, tuple)) else [configs]:
            if isinstance(init, dict) and type_name(init) in ('Pretrained', 'PretrainedInit'):
                outer.append(name)
                yield name, module, init


def read_pretrained(init: dict, where: str) -> dict:
    """The tensors that an ``init_cfg`` stands for, by name.

    Args:
        init: ``type='Pretrained'``, ``checkpoint`` (a file, or what mmengine's loader takes), and
            perhaps ``prefix``.
        where: What it belongs to, for messages: 'backbone.init_cfg'.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no checkpoint, or has nothing under the prefix.
    """
    path, prefix = init.get('checkpoint'), init.get('prefix') or ''
    if not isinstance(path, (str, Path)) or not str(path):
        raise ValueError(f'{where}: Pretrained needs checkpoint=PATH, got {path!r}')
    if '://' in str(path):
        content = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    elif Path(path).expanduser().is_file():
        content = read_whole(Path(path).expanduser())
    else:
        raise FileNotFoundError(f'{where}: no checkpoint at {Path(path).absolute()}')
    state = weights_of(content, path)
    if prefix:
        prefix = prefix if prefix.endswith('.') else f'{prefix}.'
        inner = {n[len(prefix) :]: v for n, v in state.items() if n.startswith(prefix)}
        if not inner:
            tops = ', '.join(sorted({n.split('.')[0] for n in state})[:8])
            raise ValueError(
                f'{where}: {path} has nothing under the prefix {prefix!r}; its names begin with '
                f'{tops or "nothing"}'
            )
        state = inner
    return state
