"""Runs with FreezeHooks that note what moved."""

from __future__ import annotations

import copy

import torch
from mmengine.hooks import Hook

from tests.tiny_runs import TINY_VIT, state_of, tiny_runner


def noisy_vit(**backbone):
    """A ViT with dropout and stochastic depth."""
    model = copy.deepcopy(TINY_VIT)
    model['backbone'].update(drop_rate=0.3, drop_path_rate=0.5)
    model['backbone'].update(backbone)
    return model


class Watch(Hook):
    """Copies the state before the first step, and runs the backbone twice in training."""

    priority = 'LOWEST'

    def __init__(self, size=16):
        self.size = size

    def before_train(self, runner):
        self.start = state_of(runner.model)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        with torch.no_grad():
            model = getattr(runner.model, 'module', runner.model)
            images = torch.randn(8, 3, self.size, self.size)
            generator = torch.get_rng_state()
            first, second = (model.extract_feat(images)[-1] for _ in range(2))
            torch.set_rng_state(generator)
        self.same = torch.equal(first, second)
        self.modes = {name: module.training for name, module in model.named_modules()}


def train(work_dir, model, *hooks, size=16, **changes):
    """Trains; ``runner.moved`` then names all weights and buffers that aren't as they were."""
    hooks = [dict(type='FreezeHook', **hook) for hook in hooks]
    watch = Watch(size)
    changes.setdefault('train_dataloader', dict(dataset=dict(size=size)))
    changes.setdefault('val_dataloader', dict(dataset=dict(size=size)))
    runner = tiny_runner(work_dir, model, custom_hooks=[*hooks, watch], **changes)
    runner.train()
    runner.watch = watch
    end = state_of(runner.model)
    runner.moved = {n for n, value in end.items() if not torch.equal(value, watch.start[n])}
    return runner


def of_backbone(names):
    return {name for name in names if name.startswith('backbone.')}
