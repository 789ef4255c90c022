"""The layer table against what a real run then does."""

from __future__ import annotations

import contextlib
import copy
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.tiny_runs import TINY_RESNET, TINY_VIT, tiny_config
from tl_plugin.analysis.features import build_model
from tl_plugin.analysis.layer_table import layer_report, layer_table
from tl_plugin.engine.layers import LayerMap
from tl_plugin.launch.configs import load_config
from tl_plugin.reporting.tables import table_text

ROOT = Path(__file__).parents[2]
LAYERWISE = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, flat_decay_mult=0.0),
)


class FirstIterationHook(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.trained = {
                n for n, value in runner.model.named_parameters() if value.requires_grad
            }
            self.evaluated = {n for n, m in runner.model.named_modules() if not m.training}


@pytest.mark.parametrize('model', [TINY_VIT, TINY_RESNET], ids=['ViT', 'ResNet'])
@pytest.mark.parametrize(
    'hooks',
    [
        [],
        [dict(type='FreezeHook', layers=':-1')],
        [
            dict(type='FreezeHook', layers='0:2', norm_affine='trained'),
            dict(type='FreezeHook', patterns=r'\.layer4\..*bn'),
        ],
        [dict(type='GradualUnfreezeHook', schedule=dict(milestones=[(1, '2:-1')]))],
    ],
    ids=['all', 'feature extraction', 'two parts', 'unfreezing'],
)
def test_the_report_is_what_a_runner_then_does(tmp_path, model, hooks):
    if model is TINY_VIT:
        hooks = [hook for hook in hooks if 'patterns' not in hook]
    cfg = tiny_config(
        tmp_path, model, custom_hooks=hooks, optim_wrapper=LAYERWISE, train_cfg=dict(max_epochs=2)
    )
    report = json.loads(json.dumps(layer_report(copy.deepcopy(cfg))))

    runner = Runner.from_cfg(cfg)
    runner.register_hook(first := FirstIterationHook())
    runner.train()
    layers = LayerMap.from_model(runner.model)
    values = dict(runner.model.named_parameters())
    norms = [n for n, m in runner.model.named_modules() if 'Norm' in type(m).__name__]
    for depth, row in enumerate(report['layers']):
        names = layers.names(depth)
        assert row['weights'] == sum(values[name].numel() for name in names)
        assert row['trains'].get('the start', 0) == sum(
            values[name].numel() for name in names if name in first.trained
        )
        mine = [name for name in norms if f'{name}.weight' in names]
        assert sum(row['norm'].values()) == len(mine)
        evaluated = sum(v for mode, v in row['norm'].items() if mode.startswith('eval'))
        assert evaluated == len(set(mine) & first.evaluated)
        groups = [g for g in runner.optim_wrapper.optimizer.param_groups if g['layer'] == depth]
        assert set(row['groups']) == {group['name'] for group in groups}
        assert row['lr'] == sorted({group['lr'] for group in groups}, reverse=True)
    assert report['totals']['weights'] == sum(value.numel() for value in values.values())
    assert report['totals']['trained'] == sum(values[name].numel() for name in first.trained)


def test_when_layers_begin_to_train(tmp_path):
    cfg = tiny_config(
        tmp_path,
        custom_hooks=[
            dict(type='GradualUnfreezeHook', schedule=dict(milestones=[(1, 3), (3, [1, 2])]))
        ],
    )
    layers = layer_report(cfg)['layers']
    assert [list(layer['trains']) for layer in layers] == [
        ['never'],
        ['epoch 3'],
        ['epoch 3'],
        ['epoch 1'],
        ['the start'],
    ]


def test_hooks_that_disagree_are_refused(tmp_path):
    cfg = tiny_config(
        tmp_path,
        custom_hooks=[
            dict(type='FreezeHook', layers=0),
            dict(type='GradualUnfreezeHook', schedule=dict(until=0.5)),
        ],
    )
    with pytest.raises(ValueError, match='FreezeHook and GradualUnfreezeHook both decide about'):
        layer_report(cfg)


def test_frozen_stages_count_unless_a_hook_decides(tmp_path):
    model = copy.deepcopy(TINY_RESNET)
    model['backbone'].update(frozen_stages=4, norm_eval=True)
    alone = layer_report(tiny_config(tmp_path, model))['layers']
    assert all(list(layer['trains']) == ['never'] for layer in alone[:-1])
    assert set(alone[0]['norm']) == {'eval (norm_eval)'}
    hooks = [dict(type='FreezeHook', layers='0:2')]
    decided = layer_report(tiny_config(tmp_path, model, custom_hooks=hooks))['layers']
    assert [list(layer['trains']) for layer in decided] == [['never']] * 2 + [['the start']] * (
        len(decided) - 2
    )


def test_needs_no_weights_and_no_gpu():
    cfg = load_config(
        'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
        cfg_options={
            'model.backbone': dict(
                _delete_=True,
                type='TIMMBackbone',
                model_name='resnet18',
                pretrained=True,
                checkpoint_path='/nowhere.pth',
            ),
            'optim_wrapper.type': 'AmpOptimWrapper',
        },
    )
    report = layer_report(cfg)
    assert report['backbone'] == 'TIMMBackbone'
    assert report['totals']['groups'] == 1


def test_building_a_model_leaves_its_config_as_it_was():
    """Of which a run's key in the ladder is made, for one, whatever was built before."""
    cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    before = copy.deepcopy(cfg.to_dict())
    assert 'type' not in before['data_preprocessor']  # which the classifier would add
    for weights in (False, True):
        build_model(cfg, weights)
    assert cfg.to_dict() == before


def test_table_of_a_stock_config_with_strategies():
    cfg = load_config('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', ['gradual_unfreeze'])
    table = table_text(layer_table(layer_report(cfg)), width=200)
    assert '| 0 | backbone.patch_embed ' in ' '.join(table.split())
    assert '50 % of the run' in table and '29 groups' in table
    assert table.splitlines()[0] == 'ImageClassifier SwinTransformer'


def test_the_tool_prints_json_alone(monkeypatch, capfd):
    tool = ROOT / 'tools' / 'show_layers.py'
    config = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    given = ['--strategy', 'feature_extraction', '--json', '--cfg-options']
    monkeypatch.syspath_prepend(str(tool.parent))
    monkeypatch.setattr(sys, 'argv', [str(tool), config, *given, 'model.head.num_classes=3'])
    with contextlib.suppress(SystemExit):
        runpy.run_path(str(tool), run_name='__main__')
    report = json.loads(capfd.readouterr().out)
    assert report['totals']['trained'] == 512 * 3 + 3
    assert (
        torch.tensor([layer['weights'] for layer in report['layers']]).sum()
        == report['totals']['weights']
    )
