"""What a run loads once its model is initialised, told to the parts that then need no weights.

``Runner.train()`` initialises the model before it loads ``load_from`` or the checkpoint to resume
from. A backbone that brings weights of its own would ask for their file, or the network, only to
have them overwritten: long after the file is gone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mmengine._strategy import BaseStrategy
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner, find_latest_checkpoint
from torch import nn

from .checkpoints import read_whole, weights_of
from .pretrained import pretrained_parts, read_pretrained

_runner: ContextVar[Any] = ContextVar('runner', default=None)


def tell_of_start(model: nn.Module, start: str | Path | None) -> None:
    """Tell the parts of a model that begin with weights of their own which of them aren't needed.

    Each module with ``initial_weights`` gets to know, as ``superseded_by``, the checkpoint that is
    loaded later, or the one in the ``init_cfg`` of the modules around, if that brings all of it.

    Args:
        model: Before its weights are initialised.
        start: The checkpoint that is loaded then, if there is one.
    """
    while is_model_wrapper(model):
        model = model.module
    waiting = {
        name: part
        for name, part in model.named_modules()
        if getattr(part, 'initial_weights', '') and not part.is_init
    }
    if not waiting:
        return
    if start and Path(start).is_dir():  # divided by its own library, but of the whole model
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
        local = Path(start).expanduser()
        content = (
            CheckpointLoader.load_checkpoint(str(start), map_location='cpu')
            if '://' in str(start)
            else read_whole(local)
        )
        state = weights_of(content, start)
        yield start, {name.removeprefix('module.'): value for name, value in state.items()}
    for name, _, init in pretrained_parts(model):
        state = read_pretrained(init, f'{name or "model"}.init_cfg')
        yield init['checkpoint'], {f'{name}.{key}'.lstrip('.'): v for key, v in state.items()}


def _start_of(runner: Any) -> str | None:
    """The checkpoint that a runner will load, as its ``load_or_resume`` decides."""
    if runner._has_loaded:
        return None
    if runner._resume and runner._load_from is None:
        return find_latest_checkpoint(runner.work_dir)
    return runner._resume if isinstance(runner._resume, str) else runner._load_from


def tell_in_every_run() -> None:
    """Make mmengine's runners call :func:`tell_of_start` before they initialise a model.

    No hook could: a ``FlexibleRunner`` initialises the model before it calls any.
    """
    if hasattr(Runner._init_model_weights, '__wrapped__'):
        return
    runner_init, strategy_init = Runner._init_model_weights, BaseStrategy._init_model_weights

    @functools.wraps(runner_init)
    def init_runner(self: Runner) -> None:
        tell_of_start(self.model, _start_of(self))
        runner_init(self)

    @functools.wraps(strategy_init)
    def init_strategy(self: BaseStrategy, model: nn.Module) -> nn.Module:
        runner = _runner.get()
        tell_of_start(model, None if runner is None else _start_of(runner))
        return strategy_init(self, model)

    Runner._init_model_weights = init_runner
    BaseStrategy._init_model_weights = init_strategy
    for name in ('train', 'val', 'test'):
        setattr(FlexibleRunner, name, _known(getattr(FlexibleRunner, name)))


def _known(run: Callable) -> Callable:
    """Let a strategy know, while a method of its runner runs, which one that is."""

    @functools.wraps(run)
    def known(self: FlexibleRunner) -> Any:
        token = _runner.set(self)
        try:
            return run(self)
        finally:
            _runner.reset(token)

    return known
