"""What a checkpoint gave the model is said; one that gave it nothing is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmpretrain.registry import HOOKS

from tests.toy import toy_config, train
from tl_plugin.reliability import load_report_hook
from tl_plugin.reliability.checkpoints import read_whole


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    train(toy_config(folder, max_epochs=1))
    return folder / 'epoch_1.pth'


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(
        load_report_hook, 'print_log', lambda message, **kwargs: lines.append(message)
    )
    return lines


def start(work_dir, checkpoint, options=None, resume=False, strategies=(), hooks=({},)):
    cfg = toy_config(
        work_dir,
        strategies,
        options={'optim_wrapper.optimizer.lr': 0.0, **(options or {})},
        max_epochs=2 if resume else 1,
    )
    own = [dict(type='LoadReportHook', **hook) for hook in hooks]
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *own]
    cfg.load_from, cfg.resume = str(checkpoint), resume
    return train(cfg)


def change(trained, folder, edit):
    content = read_whole(trained)
    content['state_dict'] = edit(content['state_dict'])
    torch.save(content, folder / 'changed.pth')
    return folder / 'changed.pth'


def test_all_of_it(trained, tmp_path, said):
    start(tmp_path, trained)
    assert said == ['Loaded 122 of 122 tensors.']


def test_what_was_missing_and_what_was_too_much(trained, tmp_path, said):
    def edit(state):
        del state['backbone.conv1.weight']
        return {**state, 'extra.weight': torch.zeros(1)}

    start(tmp_path, change(trained, tmp_path, edit))
    assert 'Missing in the checkpoint, at their initial values: backbone.conv1.weight.' in said[0]
    assert 'not used: extra.weight' in said[0]


@pytest.mark.parametrize(
    'edit',
    [
        lambda state: {f'net.{name}': value for name, value in state.items()},
        lambda state: {n: v for n, v in state.items() if n.startswith('head.')},
        lambda state: {'unknown': torch.zeros(2)},
    ],
    ids=['other names', 'head alone', 'another network'],
)
def test_nothing_of_the_backbone(edit, trained, tmp_path):
    with pytest.raises(ValueError, match=r'nothing .* fits the backbone: the model has backbone\.'):
        start(tmp_path, change(trained, tmp_path, edit))


def test_names_of_a_wrapped_model_fit(trained, tmp_path, said):
    path = change(trained, tmp_path, lambda s: {f'module.{n}': v for n, v in s.items()})
    start(tmp_path, path)
    assert said == ['Loaded 122 of 122 tensors.']


CLASSES = {
    'model.head.num_classes': 2,
    'train_dataloader.dataset.size': 2,
    'val_dataloader.dataset.size': 2,
    'test_dataloader.dataset.size': 2,
}


def test_a_classifier_of_another_width_only_where_it_is_wanted(trained, tmp_path, said):
    with pytest.raises(ValueError, match=r'head\.fc\.weight \(model \(2, 64\), checkpoint \(3, 64'):
        start(tmp_path, trained, CLASSES)
    runner = start(tmp_path, trained, CLASSES, hooks=({}, dict(new_classifier=True)))
    assert said[0].startswith('The classifier keeps its initial weights')
    saved = read_whole(trained)['state_dict']
    assert runner.model.head.fc.weight.shape == (2, 64)
    assert torch.equal(runner.model.backbone.conv1.weight, saved['backbone.conv1.weight'])


@pytest.mark.parametrize(
    'strategy',
    [
        'fine_tune',
        'feature_extraction',
        'gradual_unfreeze',
        'linear_probe_then_fine_tune',
        'source_only',
    ],
)
def test_strategies_for_new_classes_want_it(strategy, tmp_path):
    cfg = toy_config(tmp_path, (strategy,))
    assert dict(type='LoadReportHook', new_classifier=True) in cfg.custom_hooks


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """A run whose average is far from its weights."""
    folder = tmp_path_factory.mktemp('averaged')
    cfg = toy_config(
        folder,
        max_epochs=1,
        options={
            'optim_wrapper.optimizer.lr': 0.5,
            'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
        },
    )
    train(cfg)
    saved = read_whole(folder / 'epoch_1.pth')
    name = 'backbone.conv1.weight'
    assert not torch.equal(saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}'])
    return folder / 'epoch_1.pth'


@HOOKS.register_module(force=True)
class WatchAverages(Hook):
    """Keeps what the model and its average are before the first step."""

    priority = 'LOWEST'

    def before_train(self, runner):
        average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
        models = (runner.model, average.module)
        type(self).begun = [copy.deepcopy(model.state_dict()) for model in models]


AVERAGES = [
    dict(type='EMAHook', momentum=0.1),
    dict(type='mmengine.EMAHook', momentum=0.1),
    dict(type='EMAHook', ema_type='StochasticWeightAverage'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', update_buffers=True),
    dict(type='EMAHook', begin_epoch=1, strict_load=True),
]


@pytest.mark.parametrize('hook', AVERAGES)
@pytest.mark.parametrize('with_average', [True, False])
def test_averages_get_a_new_classifier_too(hook, with_average, averaged, trained, tmp_path):
    path = averaged if with_average else trained
    options = {**CLASSES, 'custom_hooks': [hook, dict(type='WatchAverages')]}
    runner = start(tmp_path, path, options, hooks=(dict(new_classifier=True),))
    saved = read_whole(path)['state_dict']
    model, average = WatchAverages.begun
    for name, value in model.items():
        assert torch.equal(value, average[name])
        if not name.startswith('head.'):
            assert torch.equal(value, saved[name])
    # LinearClsHead's own initial values, small ones, and not those that torch gives a layer.
    assert model['head.fc.weight'].std() < 0.02 and not model['head.fc.bias'].any()
    # Without a learning rate the average is the model, whatever it weighs.
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    torch.testing.assert_close(average.module.head.fc.weight, runner.model.head.fc.weight)


def test_a_resumed_average_goes_on(averaged, tmp_path):
    options = {'custom_hooks': [dict(type='EMAHook', momentum=0.1)]}
    runner = start(tmp_path, averaged, options, resume=True)
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    assert average.steps == 6


def test_another_network(trained, tmp_path):
    wider = {'model.backbone.base_channels': 16, 'model.head.in_channels': 128}
    with pytest.raises(ValueError, match='of another network, these have other shapes: backbone'):
        start(tmp_path, trained, wider, hooks=(dict(new_classifier=True),))


def test_a_resume_must_fit_whole(trained, tmp_path):
    with pytest.raises(ValueError, match=r'to resume from does not fit .* head\.fc'):
        start(tmp_path, trained, CLASSES, resume=True, hooks=(dict(new_classifier=True),))
    with pytest.raises(ValueError, match=r'trained 62 parameters in 1 groups, this one trains 62'):
        start(tmp_path, trained, resume=True, strategies=['fine_tune'])
    assert start(tmp_path, trained, resume=True).epoch == 2


def test_position_embeddings_that_the_network_resizes_are_no_mismatch(tmp_path, said):
    from mmpretrain.registry import MODELS

    def vit(size):
        return MODELS.build(
            dict(
                type='ImageClassifier',
                head=dict(type='LinearClsHead', in_channels=16, num_classes=3),
                backbone=dict(
                    type='VisionTransformer',
                    img_size=size,
                    patch_size=8,
                    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
                ),
            )
        )

    class Runner:
        model, _resume, _load_from = vit(32), False, 'vit.pth'
        hooks = (load_report_hook.LoadReportHook(),)

    Runner.hooks[0].after_load_checkpoint(Runner, {'state_dict': vit(16).state_dict()})
    assert said[0].startswith('Loaded 39 of 39') or 'Missing' not in said[0]


def test_what_serves_training_alone_begins_with_new_classes(said):
    from mmpretrain.registry import MODELS

    def adapted(num_classes):
        return MODELS.build(
            dict(
                type='AdaptationClassifier',
                _scope_='mmpretrain',
                backbone=dict(type='DANNDigitsBackbone'),
                head=dict(type='LinearClsHead', num_classes=num_classes),
                alignments=dict(cdan=dict(type='CDANHead')),
            )
        )

    class Runner:
        model, _resume, _load_from = adapted(2), False, 'adapted.pth'
        hooks = (load_report_hook.LoadReportHook(new_classifier=True),)

    checkpoint = {'state_dict': adapted(3).state_dict()}
    Runner.hooks[0].after_load_checkpoint(Runner, checkpoint)
    assert any('alignments.cdan' in line for line in said)
    Runner.model.load_state_dict(checkpoint['state_dict'])


def own_weights(work_dir, checkpoint, where='backbone', **init):
    init = dict(type='Pretrained', checkpoint=str(checkpoint), **init)
    cfg = toy_config(work_dir, options={'optim_wrapper.optimizer.lr': 0.0}, max_epochs=1)
    holder = cfg.model.backbone if where == 'backbone' else cfg.model
    holder.init_cfg = init
    cfg.custom_hooks = [dict(type='LoadReportHook')]
    return train(cfg)


def test_weights_of_the_backbone_alone(trained, tmp_path, said):
    runner = own_weights(tmp_path, trained, prefix='backbone')
    assert said == [f'backbone.init_cfg: 120 of 120 tensors come from {trained}.']
    saved = read_whole(trained)['state_dict']
    assert torch.equal(runner.model.backbone.conv1.weight, saved['backbone.conv1.weight'])
    said.clear()
    own_weights(tmp_path, trained, 'model')
    assert said == [f'model.init_cfg: 122 of 122 tensors come from {trained}.']


def test_what_the_backbone_misses_and_what_has_another_shape(trained, tmp_path, said):
    def edit(state):
        del state['backbone.layer1.0.conv1.weight']
        return {**state, 'backbone.conv1.weight': torch.zeros(8, 1, 3, 3)}

    own_weights(tmp_path, change(trained, tmp_path, edit), prefix='backbone.')
    assert 'init_cfg: 118 of 120' in said[0] and 'initial values: layer1.0.conv1.weight' in said[0]
    assert 'shape, at their initial values: conv1.weight (model (8, 3, 3, 3), check' in said[0]


@pytest.mark.parametrize(
    ('init', 'message'),
    [
        (dict(), r"nothing in .*\.pth fits ResNet_CIFAR: .* prefix='backbone\.'"),
        (dict(prefix='trunk'), r"nothing under the prefix 'trunk\.'; its names .* backbone, head"),
    ],
)
def test_nothing_for_the_backbone(init, message, trained, tmp_path):
    with pytest.raises(ValueError, match=message):
        own_weights(tmp_path, trained, **init)


def test_no_weights_for_the_backbone(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'backbone\.init_cfg: no checkpoint at .*gone'):
        own_weights(tmp_path, tmp_path / 'gone.pth')
    (tmp_path / 'cut.pth').write_bytes(trained.read_bytes()[:-99])
    with pytest.raises(ValueError, match=r'cut\.pth is not whole'):
        own_weights(tmp_path, tmp_path / 'cut.pth')
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'holds no weights: .* got list'):
        own_weights(tmp_path, tmp_path / 'list.pth')


def test_a_whole_model_brings_no_classifier_of_another_width(trained, tmp_path):
    def edit(state):
        return {n: v[:2] if n.startswith('head.') else v for n, v in state.items()}

    with pytest.raises(ValueError, match='classifier of the checkpoint has another width'):
        own_weights(tmp_path, change(trained, tmp_path, edit), 'model')
