"""Real training runs of real models that take a second: configs, data and the Runner."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

import tl_plugin  # noqa: F401  registers the components that the configs name
from tests.distributed import CPU_MODEL_WRAPPER

#: Normalises each image by itself, so that batches may be split over ranks.
TINY_VIT = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        img_size=16,
        patch_size=8,
        out_type='cls_token',
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16),
    data_preprocessor=dict(num_classes=4, mean=[127.5] * 3, std=[127.5] * 3),
)

#: Has BatchNorm in every layer.
TINY_RESNET = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=32),
    data_preprocessor=dict(num_classes=4, mean=[127.5] * 3, std=[127.5] * 3),
)


@DATASETS.register_module()
class RandomImages(Dataset):
    """Images of noise whose brightness tells their class, drawn from a seed."""

    metainfo = dict(classes=('a', 'b', 'c', 'd'))

    def __init__(self, count: int = 32, size: int = 16, seed: int = 0, flip: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(4, (count,), generator=generator)
        noise = torch.rand(count, 3, size, size, generator=generator)
        self.images = 60 * (self.labels.view(-1, 1, 1, 1) + noise)
        self.flip = flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        image = self.images[index]
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(self.labels[index]))


def tiny_config(work_dir, model: dict = TINY_VIT, **changes: Any) -> Config:
    """Write the config of a run: 4 epochs of 4 batches of 8 images, with validation.

    Args:
        work_dir: Where the run writes.
        model: The model's config.
        **changes: Merged over the config, key by key; ``custom_hooks`` and the like replace.

    Returns:
        The config, as ``Config.fromfile`` would give it.
    """
    loader = dict(
        batch_size=8,
        num_workers=0,
        dataset=dict(type='RandomImages'),
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=True, seed=0),
    )
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=copy.deepcopy(model),
            work_dir=str(work_dir),
            train_dataloader=loader,
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='Accuracy'),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=4, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', interval=1),
            ),
            randomness=dict(seed=0),
            experiment_name=f'tiny_{abs(hash(str(work_dir)))}',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            visualizer=None,
        ),
        format_python_code=False,
    )  # formatting takes longer than training here
    cfg.merge_from_dict(copy.deepcopy(changes))
    if not cfg.train_cfg.by_epoch:
        # The loop by iteration sleeps for two seconds each time a finite sampler ends.
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True, seed=0)
    return cfg


def tiny_runner(work_dir, model: dict = TINY_VIT, launcher: str = 'none', **changes: Any) -> Runner:
    """Build the runner of :func:`tiny_config`; under a launcher, for gloo on CPUs.

    ``custom_hooks`` may also hold hook objects, which a config can't.
    """
    hooks = changes.pop('custom_hooks', [])
    cfg = tiny_config(
        work_dir,
        model,
        launcher=launcher,
        **changes,
        custom_hooks=[hook for hook in hooks if isinstance(hook, dict)],
    )
    if launcher != 'none':
        cfg.setdefault('model_wrapper_cfg', dict(CPU_MODEL_WRAPPER))
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        if isinstance(hook, Hook):
            runner.register_hook(hook)
    return runner


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy all weights and buffers, by unwrapped name."""
    model = getattr(model, 'module', model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
