"""A small data set and small configs, for tests that train for real."""

from __future__ import annotations

import copy
import functools
import uuid
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS

from tl_plugin.strategies import apply_strategies

STOCK = Path(mmpretrain.__file__).parent / '.mim' / 'configs'


@DATASETS.register_module(force=True)
class ToyDataset(BaseDataset):
    """Coloured squares on noise: one hue a class, darker by ``shift`` (the other domain)."""

    METAINFO = dict(classes=('red', 'green', 'blue'))

    def __init__(
        self,
        size: int = 12,
        shift: float = 0.0,
        labels: str = 'true',
        image_size: int = 32,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.size, self.shift, self.labels = size, shift, labels
        self.image_size, self.seed = image_size, seed
        # Serializing collects all garbage, which takes longer than training here.
        super().__init__(ann_file='', **{'serialize_data': False, **kwargs})

    def load_data_list(self) -> list[dict]:
        random = np.random.default_rng(self.seed)
        items = []
        for index in range(self.size):
            label = index % 3
            image = random.integers(0, 60, (self.image_size, self.image_size, 3))
            image[4:-4, 4:-4, label] += 150
            image = (image * (1 - self.shift)).astype(np.uint8)
            item = dict(img=image, img_id=index)
            if self.labels == 'true':
                item['gt_label'] = label
            elif self.labels == 'several':
                item['gt_label'] = [label, (label + 1) % 3]
            elif self.labels == 'scrambled':
                item['gt_label'] = (label * 2 + 1) % 3
            elif self.labels == 'some':  # every other image has one
                item['gt_label'] = -1 if index % 2 else label
            elif self.labels == 'gaps' and index % 2 == 0:  # the others have no entry at all
                item['gt_label'] = label
            items.append(item)
        return items


def loader(batch_size: int = 4, shuffle: bool = True, pipeline: Any = None, **dataset: Any) -> dict:
    """A loader config over a ToyDataset."""
    dataset.setdefault('pipeline', pipeline or [dict(type='PackInputs')])
    return dict(
        batch_size=batch_size,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='ToyDataset', **dataset),
    )


def read_stock(path: str) -> Config:
    """Reads a config of mmpretrain, once for all tests."""
    return copy.deepcopy(_read(path))


@functools.cache
def _read(path: str) -> Config:
    return Config.fromfile(STOCK / path)


def toy_config(
    work_dir: Any,
    strategies: tuple[str, ...] = (),
    options: dict | None = None,
    max_epochs: int = 2,
    max_iters: int | None = None,
) -> Config:
    """The stock ResNet-18 CIFAR-10 config, thinned, on toy data."""
    cfg = read_stock('resnet/resnet18_8xb16_cifar10.py')
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[key] = loader(shuffle=key.startswith('train'))
    cfg.merge_from_dict(
        {
            'model.backbone.base_channels': 8,
            'model.backbone.stem_channels': 8,
            'model.head.in_channels': 64,
            'model.head.num_classes': 3,
            'model.head.topk': (1,),
            'data_preprocessor.num_classes': 3,
            'optim_wrapper.optimizer.lr': 0.01,
            'default_hooks.logger.interval': 1,
            'val_evaluator': dict(type='Accuracy', topk=(1,)),
            'test_evaluator': dict(type='Accuracy', topk=(1,)),
        }
    )
    if max_iters is None:
        cfg.train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
    else:
        cfg.train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=max_iters)
        cfg.param_scheduler = dict(type='ConstantLR', factor=1.0, by_epoch=False)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
        cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'WARNING'
    cfg.work_dir = str(work_dir)
    cfg = apply_strategies(cfg, list(strategies))
    # A copy, since the forks' merge keeps what it is given, and a later one would change it.
    cfg.merge_from_dict(copy.deepcopy(options or {}))
    return cfg


def target(**kwargs: Any) -> dict:
    """Options that give a config its target."""
    kwargs.setdefault('labels', 'none')
    kwargs.setdefault('shift', 0.5)
    kwargs.setdefault('size', 9)
    kwargs.setdefault('seed', 1)
    return {'train_cfg.target_dataloader': dict(dataset=kwargs)}


def fresh_name(start: str) -> str:
    """Names an experiment as no other: two of one name in a second share log and best score."""
    return f'{start}_{uuid.uuid4().hex}'


def train(cfg: Config) -> Runner:
    """Trains and returns the runner, whose log is in ``runner.message_hub``."""
    cfg.experiment_name = fresh_name('toy')
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def stock_config(
    path: str,
    work_dir: Any,
    strategies: tuple[str, ...] = (),
    options: dict | None = None,
    image_size: int = 224,
    network: dict | None = None,
) -> Config:
    """Any of mmpretrain's ImageNet or CIFAR configs with one step's worth of toy data.

    ``network`` changes it before the strategies, ``options`` after them.
    """
    cfg = read_stock(path)
    cfg.merge_from_dict(copy.deepcopy(network or {}))
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        # No class names, for the head keeps its thousand classes.
        cfg[key] = loader(2, size=2, image_size=image_size, metainfo=dict(classes=()))
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg[key] = None
    for unit in ('max_epochs', 'max_iters'):
        if unit in cfg.train_cfg:
            cfg.train_cfg[unit] = 1
    cfg.default_hooks.checkpoint = None
    cfg.param_scheduler = None  # warm-ups that are longer than a step are refused
    cfg.log_level = 'WARNING'
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(work_dir)
    cfg = apply_strategies(cfg, list(strategies))
    if cfg.train_cfg.get('type') == 'AdaptationTrainLoop':
        cfg.merge_from_dict(target(size=3, labels='none'))
    # A copy, since the forks' merge keeps what it is given, and a later one would change it.
    cfg.merge_from_dict(copy.deepcopy(options or {}))
    return cfg
