"""mmengine's pure-Python configs, whose types are classes, do all that configs of names do."""

from __future__ import annotations

import functools
import pickle

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS

from tests.toy import ToyDataset
from tl_plugin.analysis.layer_table import layer_report
from tl_plugin.engine.hooks import AdversaryMonitorHook, FreezeHook
from tl_plugin.engine.loops.inherit import inherit_dataloader
from tl_plugin.ladder.ready_config import content_key, place, ready_config
from tl_plugin.ladder.rungs import DEFAULT_RUNGS
from tl_plugin.launch import runs as launch
from tl_plugin.launch.config_types import importable
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare, prepare_test
from tl_plugin.models import AdaptationClassifier, DomainDataPreprocessor
from tl_plugin.stack.options import type_name
from tl_plugin.strategies import apply_strategies

BASE = """
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from mmpretrain.datasets import PackInputs
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import (
    ClsDataPreprocessor, CrossEntropyLoss, GlobalAveragePooling, ImageClassifier, LinearClsHead,
    ResNet_CIFAR)
from mmpretrain.visualization import UniversalVisualizer
from torch.optim import SGD

from tests.toy import ToyDataset
from tl_plugin.engine.hooks import AdversaryMonitorHook

model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet_CIFAR, depth=18, stem_channels=8, base_channels=8),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=3, in_channels=64, loss=dict(type=CrossEntropyLoss)))
data_preprocessor = dict(
    type=ClsDataPreprocessor, num_classes=3, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True)
images = dict(
    batch_size=6, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=ToyDataset, size=12, pipeline=[dict(type=PackInputs)]))
train_dataloader = images
val_dataloader = images
test_dataloader = images
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = dict(type=Accuracy, topk=(1,))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.05, momentum=0.9))
param_scheduler = dict(type=MultiStepLR, milestones=[9])
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
randomness = dict(seed=0)
log_level = 'WARNING'
visualizer = dict(type=UniversalVisualizer)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1), checkpoint=dict(type=CheckpointHook, interval=1),
    visualization=dict(type=VisualizationHook))
custom_hooks = [dict(type=AdversaryMonitorHook)]
"""
LAZY = """
from mmengine.config import read_base
from tl_plugin.engine.loops import DomainTestLoop, DomainValLoop

with read_base():
    from .base import *

domains = dict(target=dict(dataset=dict(shift=0.5, seed=1)))
val_cfg = dict(type=DomainValLoop, dataloaders=domains)
test_cfg = dict(type=DomainTestLoop, dataloaders=domains)
ladder = dict(
    target_dataloader=dict(dataset=dict(labels='none', shift=0.5)),
    labelled_target_dataloader=dict(dataset=dict(size=6, shift=0.5)))
"""
TARGET = {
    'train_cfg.target_dataloader.dataset': dict(labels='none', shift=0.5, seed=1),
    'experiment_name': 'pure_python',
}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The lazy config, with ``with read_base()``; its base is a pure-Python config by itself."""
    folder = tmp_path_factory.mktemp('configs')
    (folder / '__init__.py').touch()
    (folder / 'base.py').write_text(BASE)
    (folder / 'lazy.py').write_text(LAZY)
    return folder / 'lazy.py'


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory):
    """A run of it, with a strategy that replaces model and loop: the folder."""
    folder = tmp_path_factory.mktemp('run')
    cfg = load_config(config, ['dann', 'retention'], TARGET)
    object.__setattr__(cfg, '_format_python_code', False)  # formatting takes longer than training
    build_runner(prepare(cfg, work_dir=folder)).train()
    return folder


def test_a_strategy_trains(trained):
    state = torch.load(trained / 'epoch_1.pth', weights_only=True)['state_dict']
    assert any(name.startswith('alignments.dann') for name in state)
    cfg = Config.fromfile(trained / 'lazy.py')
    hooks = [type_name(hook) for hook in cfg.custom_hooks]
    assert hooks.count('AdversaryMonitorHook') == 1  # the config has it as a class
    assert 'RetentionHook' in hooks


def test_mmpretrains_tools_read_what_the_run_wrote(trained, tmp_path):
    text = (trained / 'lazy.py').read_text()
    assert '<class' not in text and '<function' not in text
    cfg = Config.fromfile(trained / 'lazy.py', format_python_code=False)
    assert 'tl_plugin' in cfg.custom_imports.imports
    # What mmpretrain's tools/test.py does.
    cfg.load_from, cfg.work_dir = str(trained / 'epoch_1.pth'), str(tmp_path)
    cfg.experiment_name = 'pure_python_again'
    found = Runner.from_cfg(cfg).test()
    assert set(found) == {'source/accuracy/top1', 'target/accuracy/top1'}


@pytest.mark.parametrize(
    ('strategies', 'loop', 'model'),
    [
        (['fine_tune', 'l2_sp'], 'DomainLoop', 'AdaptationClassifier'),
        (['shot'], 'SourceFreeTrainLoop', 'AdaptationClassifier'),
        (['feature_extraction_cached', 'retention'], 'CachedFeatureTrainLoop', 'ImageClassifier'),
        (['feature_extraction'], 'EpochBasedTrainLoop', 'ImageClassifier'),
    ],
)
def test_what_strategies_replace(config, strategies, loop, model):
    cfg = load_config(config.with_name('base.py'), strategies)
    assert type_name(cfg.model) == model
    assert type_name(cfg.train_cfg) == loop.replace('DomainLoop', 'EpochBasedTrainLoop')
    assert layer_report(cfg)['model'] == model


def test_flags(config, monkeypatch, tmp_path):
    assert load_config(config).default_scope == 'mmpretrain'
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = prepare(load_config(config, (), {'optim_wrapper.type': AmpOptimWrapper}))
    assert cfg.optim_wrapper.type == 'CPUAmpOptimWrapper'
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    assert prepare(load_config(config), amp=True).optim_wrapper.type == 'AmpOptimWrapper'
    cfg = prepare_test(
        load_config(config), 'weights.pth', tta=True, show_dir='shown', out_predictions='all.pkl'
    )
    assert type_name(cfg.model.module) == 'ImageClassifier'
    assert cfg.default_hooks.visualization.out_dir == 'shown'
    assert [type_name(metric) for metric in cfg.test_evaluator] == ['Accuracy', 'DumpResults']
    importable(cfg).dump(tmp_path / 'cfg.py')
    assert '<class' not in (tmp_path / 'cfg.py').read_text()


def test_the_ladder_runs_from_files(config, tmp_path):
    rungs = {rung.name: rung for rung in DEFAULT_RUNGS}
    for name in ('quality_matched', 'joint_training', 'dann', 'feature_extraction'):
        ready, again = (ready_config(load_config(config), rungs[name], 0) for _ in range(2))
        assert content_key(ready, None) == content_key(again, None)
        path = place(ready, tmp_path / name, None)
        read = Config.fromfile(path, format_python_code=False)
        assert type_name(read.model) == type_name(ready.model)
        assert [type_name(metric) for metric in read.test_evaluator] == ['Accuracy', 'DumpResults']
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            assert type(MODELS.build(read.model)).__name__ == type_name(ready.model)
    ready.model.head.cal_acc = lambda scores: scores
    with pytest.raises(ValueError, match='cannot hold <function'):
        content_key(ready, None)


def test_classes_in_a_config_made_in_python(tmp_path):
    stock = Config(
        dict(
            model=dict(type=ImageClassifier, backbone=dict(type=torch.nn.Identity)),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            custom_hooks=[dict(type=FreezeHook, layers=':-1', norm='eval', dropout='eval')],
            optim_wrapper=dict(type=OptimWrapper, optimizer=dict(type=torch.optim.SGD, lr=0.1)),
        ),
        format_python_code=False,
    )
    cfg = apply_strategies(stock, ['dann', 'feature_extraction'])
    hooks = [type_name(hook) for hook in cfg.custom_hooks]
    assert hooks == ['FreezeHook', 'AdversaryMonitorHook', 'LoadReportHook']
    ready = importable(cfg)
    assert ready.model.backbone.type is torch.nn.Identity
    ready.dump(tmp_path / 'cfg.py')
    read = Config.fromfile(tmp_path / 'cfg.py', format_python_code=False)
    assert read.model.backbone.type == 'torch.nn.modules.linear.Identity'
    assert read.model.type == 'AdaptationClassifier'
    assert pickle.loads(pickle.dumps(ready)).optim_wrapper.type is OptimWrapper
    odd = functools.partial(dict)
    assert importable(Config(dict(a=dict(type=odd)))).a.type is odd


def test_parts_that_look_at_types():
    kind = dict(type=ToyDataset, size=5)
    base = dict(batch_size=8, dataset=dict(type='ToyDataset', size=3, seed=2))
    merged = inherit_dataloader(base, dict(dataset=kind), 'target')
    assert merged['dataset']['seed'] == 2  # of the same type: it inherits key by key
    model = AdaptationClassifier(
        backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=512),
        data_preprocessor=dict(type=MODELS.get('ClsDataPreprocessor')),
    )
    assert isinstance(model.data_preprocessor, DomainDataPreprocessor)
    assert type_name(AdversaryMonitorHook) == 'AdversaryMonitorHook'
