"""Weights that a model begins with: those of its parts, and the checkpoint that replaces them.

A part of a model names its own by ``init_cfg=dict(type='Pretrained')`` or ``initial_weights``.
``Runner.train()`` initialises the model before it loads ``load_from`` or the checkpoint to resume
from. A backbone with weights of its own would load their file, or download it, only to have them
overwritten, and would fail once the file is gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mmengine._strategy import BaseStrategy
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner, find_latest_checkpoint
from torch import nn

from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import type_name

from .checkpoints import read_whole, weights_of

_runner: ContextVar[Any] = ContextVar('runner', default=None)


def announce_checkpoint(model: nn.Module, start: str | Path | None) -> None:
    """Announce a checkpoint to the parts of a model whose own weights it replaces.

    Each module with ``initial_weights`` gets, as ``superseded_by``, the path of the checkpoint that
    is loaded later, or of the one in the ``init_cfg`` of a module around it, if that holds all of
    its tensors.

    Args:
        model: The model, before its weights are initialised.
        start: The checkpoint that is loaded afterwards; None where there is none.
    """
    model = unwrap(model)
    waiting = {
        name: part
        for name, part in model.named_modules()
        if getattr(part, 'initial_weights', '') and not part.is_init
    }
    if not waiting:
        return
    if start and Path(start).is_dir():  # sharded by its own library, but of the whole model
        for part in waiting.values():
            part.superseded_by = str(start)
        return
    for path, state in _sources(model, start):
        for name, part in waiting.items():
            wanted = {f'{name}.{key}'.lstrip('.'): v for key, v in part.state_dict().items()}
            if all(_brings(state, key, value) for key, value in wanted.items()):
                part.superseded_by = str(path)


def _brings(state: dict, name: str, value: Any) -> bool:
    if name not in state:
        return name.endswith('num_batches_tracked')
    return state[name].shape == value.shape


def _sources(model: nn.Module, start: str | Path | None) -> Iterator[tuple[str | Path, dict]]:
    if start:
        state = weights_of(_read(start), start)
        yield start, {name.removeprefix('module.'): value for name, value in state.items()}
    for name, _, init in pretrained_parts(model):
        state = read_pretrained(init, f'{name or "model"}.init_cfg')
        yield init['checkpoint'], {f'{name}.{key}'.lstrip('.'): v for key, v in state.items()}


def _read(path: str | Path) -> Any:
    if '://' in str(path):
        return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    return read_whole(Path(path).expanduser())


def _start_of(runner: Any) -> str | None:
    """Return the checkpoint that a runner will load, as its ``load_or_resume`` decides."""
    if runner._has_loaded:
        return None
    if runner._resume and runner._load_from is None:
        return find_latest_checkpoint(runner.work_dir)
    return runner._resume if isinstance(runner._resume, str) else runner._load_from


def announce_in_every_run() -> None:
    """Make mmengine's runners call :func:`announce_checkpoint` before they initialise a model.

    No hook could: a ``FlexibleRunner`` initialises the model before it calls any.
    """
    if hasattr(Runner._init_model_weights, '__wrapped__'):
        return
    runner_init, strategy_init = Runner._init_model_weights, BaseStrategy._init_model_weights

    @functools.wraps(runner_init)
    def init_runner(self: Runner) -> None:
        announce_checkpoint(self.model, _start_of(self))
        runner_init(self)

    @functools.wraps(strategy_init)
    def init_strategy(self: BaseStrategy, model: nn.Module) -> nn.Module:
        runner = _runner.get()
        announce_checkpoint(model, None if runner is None else _start_of(runner))
        return strategy_init(self, model)

    Runner._init_model_weights = init_runner
    BaseStrategy._init_model_weights = init_strategy
    for name in ('train', 'val', 'test'):
        setattr(FlexibleRunner, name, _known(getattr(FlexibleRunner, name)))


def _known(run: Callable) -> Callable:
    """Make the runner known to its strategy while one of its methods runs."""

    @functools.wraps(run)
    def known(self: FlexibleRunner) -> Any:
        token = _runner.set(self)
        try:
            return run(self)
        finally:
            _runner.reset(token)

    return known


def pretrained_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module, dict]]:
    """Yield the outermost modules that begin with a checkpoint.

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
    """Read the tensors that an ``init_cfg`` stands for, by name.

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
    if '://' not in str(path) and not Path(path).expanduser().is_file():
        raise FileNotFoundError(f'{where}: no checkpoint at {Path(path).absolute()}')
    state = weights_of(_read(path), path)
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
