"""Small runs with everything in them that is random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from tests.toy import toy_config, train

RANDOM = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='ColorJitter', brightness=0.4),
    dict(type='PackInputs'),
]
#: Mixup, cutmix and EMA in the main process.
MODEL_RANDOM = {
    'model.train_cfg': dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    ),
}
EMA = dict(type='EMAHook', momentum=0.1)
EXACT = dict(type='ExactResumeHook')


class Stopped(Exception):
    """A run ends here."""


@HOOKS.register_module(force=True)
class StopHook(Hook):
    """Ends a run after so many iterations, like a kill right after the checkpoint."""

    priority = 'LOWEST'

    def __init__(self, after: int) -> None:
        self.after = after

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.after:
            raise Stopped


@HOOKS.register_module(force=True)
class RecordHook(Hook):
    """Remembers a fingerprint of each batch and its place."""

    def __init__(self) -> None:
        self.seen: list = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch=None) -> None:
        batches = [data_batch] if 'inputs' in data_batch else list(data_batch.values())
        prints = [_fingerprint(batch['inputs']) for batch in batches]
        self.seen.append((runner.epoch, runner.iter, batch_idx, *prints))


def _fingerprint(inputs: Any) -> float:
    views = inputs if not isinstance(inputs, torch.Tensor) else [inputs]
    if isinstance(views[0], (list, tuple)):
        views = [image for view in views for image in view]
    return sum((n + 1) * float(view.double().pow(2).mean()) for n, view in enumerate(views))


def random_config(work_dir: Any, options: dict | None = None, hooks: list | None = None, **kwargs):
    """A toy config with random augmentation, mixup, EMA and exact resume."""
    cfg = toy_config(work_dir, **kwargs)
    cfg.train_dataloader.dataset.update(size=22, pipeline=RANDOM)
    cfg.merge_from_dict(MODEL_RANDOM)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
    cfg.custom_hooks = [
        *(cfg.get('custom_hooks') or []),
        EXACT,
        EMA,
        dict(type='RecordHook'),
        *(hooks or []),
    ]
    cfg.merge_from_dict(options or {})
    return cfg


def run_through(cfg: Any) -> tuple[dict, list]:
    """Trains; returns weights by name and what each iteration saw."""
    runner = train(cfg)
    return _outcome(runner)


def run_interrupted(make: Any, folder: Path, at: int, resume: dict | None = None):
    """Trains up to an iteration, resumes there in a new runner, and returns as above.

    Args:
        make: Makes the config of a folder.
        folder: The folder.
        at: The iteration after which the first attempt ends.
        resume: Options of the second attempt alone.
    """
    first = make(folder)
    first.custom_hooks = [*first.custom_hooks, dict(type='StopHook', after=at)]
    try:
        train(first)
    except Stopped:
        pass
    else:
        raise RuntimeError(f'the run was over before iteration {at}')
    second = make(folder)
    second.merge_from_dict(resume or {})
    second.resume, second.load_from = True, str(folder / f'iter_{at}.pth')
    return _outcome(train(second))


def _outcome(runner: Any) -> tuple[dict, list]:
    state = {name: value.clone() for name, value in runner.model.state_dict().items()}
    for hook in runner.hooks:
        if isinstance(hook, RecordHook):
            seen = hook.seen
        if type(hook).__name__ == 'EMAHook':
            averaged = hook.ema_model.module.state_dict().items()
            state.update({f'ema.{name}': value.clone() for name, value in averaged})
    return state, seen


def differing(first: dict, second: dict) -> list[str]:
    """Names of tensors that are not bit-equal."""
    assert set(first) == set(second)
    return [name for name in first if not torch.equal(first[name], second[name])]
