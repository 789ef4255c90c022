"""FreezeHook in real runs: what is frozen stands still, what isn't moves."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.test_engine.test_hooks.freeze_runs import noisy_vit, of_backbone, train
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner
from tl_plugin.engine.freezing.policy import modules_of_part
from tl_plugin.engine.hooks import FreezeHook


@pytest.mark.parametrize('model', [TINY_RESNET, noisy_vit()], ids=['BatchNorm', 'dropout'])
@pytest.mark.parametrize(
    'loop',
    [dict(by_epoch=True, max_epochs=2), dict(_delete_=True, by_epoch=False, max_iters=5)],
    ids=['epochs', 'iterations'],
)
def test_a_frozen_trunk_stands_still_to_the_bit(tmp_path, model, loop):
    runner = train(tmp_path, model, dict(layers=':-1'), train_cfg=loop)
    assert runner.moved == {n for n in state_of(runner.model) if not n.startswith('backbone.')}
    assert runner.watch.same


@pytest.mark.parametrize('model', [TINY_RESNET, noisy_vit()], ids=['BatchNorm', 'dropout'])
def test_without_the_hook_all_of_it_moves(tmp_path, model):
    runner = train(tmp_path, model)
    assert runner.moved == set(state_of(runner.model))
    # BatchNorm normalises equal batches equally in any mode.
    assert runner.watch.same == (model is TINY_RESNET)


def test_only_the_frozen_layers_are_in_eval_mode(tmp_path):
    runner = train(tmp_path, noisy_vit(), dict(layers='0:3'), train_cfg=dict(max_epochs=1))
    modes = runner.watch.modes
    # Depth 0 is the stem; the dropout after it lies between two frozen layers.
    for name in (
        'backbone.drop_after_pos',
        'backbone.patch_embed',
        'backbone.layers.0',
        'backbone.layers.1.attn.out_drop',
        'backbone.layers.1.ffn.dropout_layer',
    ):
        assert not modes[name], name
    for name in ('', 'backbone', 'backbone.layers.2', 'backbone.layers.2.attn.out_drop', 'head'):
        assert modes[name], name
    assert not runner.watch.same
    assert not any(name.startswith('backbone.layers.1.') for name in runner.moved)
    assert any(name.startswith('backbone.layers.2.') for name in runner.moved)


def test_running_statistics_may_follow_the_data(tmp_path):
    runner = train(tmp_path, TINY_RESNET, dict(layers=':-1', norm='train'))
    statistics = {n for n, _ in runner.model.backbone.named_buffers(prefix='backbone')}
    assert of_backbone(runner.moved) == statistics


def test_norm_affine_may_go_on_training(tmp_path):
    runner = train(tmp_path, TINY_RESNET, dict(layers=':-1', norm_affine='trained'))
    affine = {
        f'{name}.{kind}'
        for name, module in runner.model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for kind in ('weight', 'bias')
    }
    assert of_backbone(runner.moved) == affine
    assert runner.watch.same


@pytest.mark.parametrize(
    'policy, backbone, same',
    [
        ({}, {}, True),
        (dict(dropout='train'), {}, False),
        (dict(droppath='train'), {}, False),
        (dict(dropout='train'), dict(drop_rate=0.0), True),
        (dict(droppath='train'), dict(drop_path_rate=0.0), True),
    ],
    ids=str,
)
def test_dropout_and_droppath_each_have_their_policy(tmp_path, policy, backbone, same):
    runner = train(
        tmp_path, noisy_vit(**backbone), dict(layers=':-1', **policy), train_cfg=dict(max_epochs=1)
    )
    assert runner.watch.same == same
    assert not of_backbone(runner.moved)


def test_functional_dropout_of_timm_attention_stands_still_too(tmp_path):
    model = dict(
        type='TimmClassifier',
        model_name='vit_tiny_patch16_224',
        num_classes=4,
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        attn_drop_rate=0.5,
        pos_drop_rate=0.5,
        drop_rate=0.5,
        loss=dict(type='CrossEntropyLoss'),
        data_preprocessor=dict(num_classes=4, mean=[127.5] * 3, std=[127.5] * 3),
    )
    runner = tiny_runner(tmp_path, model, custom_hooks=[dict(type='FreezeHook', layers=':-1')])
    runner.train()
    runner.model.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, FreezeHook))
    hook.before_train_iter(runner, 0)
    inner = runner.model.model
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(inner.forward_features(images), inner.forward_features(images))
    # Dropout before the classifier belongs to the head, which trains.
    assert inner.head_drop.training
    runner.model.train()
    assert not torch.equal(inner.forward_features(images), inner.forward_features(images))


def test_by_module_type(tmp_path):
    runner = train(tmp_path, TINY_RESNET, dict(modules=['BatchNorm2d']))
    assert not any('bn' in name or 'norm' in name for name in runner.moved)
    assert 'backbone.conv1.weight' in runner.moved
    assert runner.watch.same


def test_several_hooks_add_up(tmp_path):
    runner = train(
        tmp_path,
        noisy_vit(),
        dict(layers=0, dropout='train'),
        dict(patterns=[r'^backbone\.layers\.0\.', 'ln1']),
        train_cfg=dict(max_epochs=1),
    )
    still = {name for name, _ in runner.model.named_parameters()} - runner.moved
    layers = runner.hooks[0].layer_map
    assert still == {
        *layers.names(0),
        *layers.names(1),
        *(name for d in (2, 3) for name in layers.names(d) if 'ln1' in name),
    }
    assert runner.watch.modes['backbone.drop_after_pos']
    assert not runner.watch.modes['backbone.layers.0.attn.out_drop']


@pytest.mark.parametrize(
    'hooks, message',
    [
        ([{}], 'selects nothing: give layers'),
        ([dict(layers=':-1', norm='frozen')], "norm='frozen': expected 'eval' or 'train'"),
        ([dict(layers='0:9')], 'Valid depths are 0'),
        ([dict(patterns=['backbone.layer.1'])], r'Nearest: .*backbone\.layers\.1'),
        ([dict(modules=['BatchNorm'])], 'selects no parameter'),
        ([dict(layers=':')], 'nothing would train'),
        ([dict(layers='0:2'), dict(layers='1:3', dropout='train')], 'both decide about'),
    ],
)
def test_wrong_use_is_told(tmp_path, hooks, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, TINY_VIT, *hooks)


def test_frozen_stages_do_not_fight(tmp_path):
    model = copy.deepcopy(TINY_RESNET)
    model['backbone']['frozen_stages'] = 3
    runner = train(tmp_path, model, dict(layers='0:2'))
    # The stages above the hook's layers are set free, and stay free over several epochs.
    layers = runner.hooks[0].layer_map
    assert not runner.moved & {*layers.names(0), *layers.names(1)}
    assert set(layers.names(4)) <= runner.moved
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'ResNet_CIFAR.frozen_stages=3 of `backbone` is switched off' in log


def test_testing_alone_freezes_nothing(tmp_path):
    runner = tiny_runner(tmp_path, custom_hooks=[dict(type='FreezeHook', layers=':-1')])
    runner.val()
    assert all(value.requires_grad for value in runner.model.parameters())


def test_modules_of_part_are_whole_or_between():
    from torch import nn

    model = nn.Sequential(
        nn.Linear(2, 2),
        nn.Dropout(),
        nn.Sequential(nn.Linear(2, 2), nn.Dropout()),
        nn.ReLU(),
        nn.Linear(2, 2),
        nn.Dropout(),
    )
    found = modules_of_part(model, ['0.weight', '0.bias', '2.0.weight', '2.0.bias'])
    assert found == [model[0], model[1], model[2], model[2][0], model[2][1]]


def test_a_frozen_trunk_costs_no_backward_pass(tmp_path):
    runner = train(tmp_path, TINY_VIT, dict(layers='0:3'), train_cfg=dict(max_epochs=1))
    backbone = runner.model.backbone
    outputs = {}
    for index, layer in enumerate(backbone.layers):
        layer.register_forward_hook(
            lambda module, inputs, output, index=index: outputs.update({index: output})
        )
    backbone(torch.randn(2, 3, 16, 16))
    assert {index: output.requires_grad for index, output in outputs.items()} == {
        0: False,
        1: False,
        2: True,
    }


def test_log_says_what_is_frozen(tmp_path):
    train(tmp_path, TINY_VIT, dict(layers=':-1'), train_cfg=dict(max_epochs=1))
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert "The layers ':-1' selects" in log
    assert 'FreezeHook, before the run: 42 of 44 parameters are frozen' in log
