"""Adapters add up to the merged weights; other tools see an ordinary network."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

from tests.tiny_runs import TINY_VIT, state_of, tiny_runner
from tests.toy import toy_config, train
from tl_plugin.engine.interpolation import plain_model_config
from tl_plugin.engine.low_rank import adapted_modules, add_adapters, merge_adapters
from tl_plugin.reliability.checkpoints import read_whole

LORA = dict(TINY_VIT, type='LoRAClassifier', lora=dict(rank=2, alpha=4.0))
HOOKS = [
    dict(type='FreezeHook', patterns=[r'^(?!head\.|neck\.|.*\.lora_)']),
    dict(type='LoRAHook'),
]
BACKBONES = {
    'mmpretrain': dict(TINY_VIT['backbone']),
    'convnext': dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 32])),
    'timm': dict(type='PooledTimmBackbone', model_name='mobilenetv3_small_050'),
    'torchvision': dict(type='PooledTorchvisionBackbone', model_name='mobilenet_v3_small'),
}


def randomised(model):
    """Adapters as training might leave them."""
    with torch.no_grad():
        for module in adapted_modules(model).values():
            nn.init.normal_(module.lora_b, std=1.0)
    return model.eval()


@pytest.mark.parametrize(
    'name',
    [
        'mmpretrain',
        'timm',
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('convnext', 'torchvision')),
    ],
)
def test_merged_and_unmerged_give_the_same_scores(name):
    torch.manual_seed(0)
    size = 16 if name == 'mmpretrain' else 64
    cfg = dict(
        type='LoRAClassifier',
        backbone=BACKBONES[name],
        head=dict(type='LinearClsHead', num_classes=4),
    )
    model = MODELS.build(copy.deepcopy(cfg))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        start = model.eval()(images)
        scores = randomised(model)(images)
        assert not torch.allclose(scores, start, rtol=1e-3, atol=0)
        # An ordinary classifier reads the state dict, and one with adapters does.
        plain = MODELS.build({**copy.deepcopy(cfg), 'type': 'AdaptationClassifier'}).eval()
        missing = plain.load_state_dict(model.state_dict())
        assert not missing.missing_keys and not missing.unexpected_keys
        torch.testing.assert_close(plain(images), scores, rtol=1e-5, atol=1e-5)
        again = MODELS.build(copy.deepcopy(cfg)).eval()
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again(images), scores, rtol=1e-5, atol=1e-5)
        merge_adapters(model)
        torch.testing.assert_close(model(images), scores, rtol=1e-5, atol=1e-5)
    assert not adapted_modules(model)
    assert [type(m) for m in model.modules()][1:] == [type(m) for m in plain.modules()][1:]


def test_a_backbone_with_weights_of_its_own_starts_from_them(tmp_path):
    backbone = MODELS.build(dict(BACKBONES['timm']))
    torch.save(backbone.timm_model.state_dict(), tmp_path / 'weights.pth')
    model = MODELS.build(
        dict(
            type='LoRAClassifier',
            backbone=dict(BACKBONES['timm'], checkpoint_path=str(tmp_path / 'weights.pth')),
            head=dict(type='LinearClsHead', num_classes=4),
        )
    )
    model.init_weights()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = backbone.eval()(images), model.eval().backbone(images)
    torch.testing.assert_close(found[-1], expected[-1])


def test_which_layers_have_adapters():
    class Net(nn.Sequential):
        pass

    net = Net(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1, groups=4),
        nn.Flatten(),
        nn.Linear(36 * 4, 8),
        nn.Linear(8, 2),
    )
    assert add_adapters(net, layers=':', rank=99) == ['2', '5', '6']
    assert [m.lora_a.shape[0] for m in adapted_modules(net).values()] == [2, 4, 1]
    with pytest.raises(ValueError, match='have none: use fine_tune'):
        add_adapters(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), layers=':')
    with pytest.raises(ValueError, match='rank must be >= 1'):
        add_adapters(net, rank=0)
    attention = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    assert add_adapters(attention, layers=':') == ['0']


def runner_of(folder, hooks=HOOKS, **changes):
    return tiny_runner(folder, LORA, custom_hooks=copy.deepcopy(hooks), **changes)


def test_training_moves_adapters_and_head_alone_and_resumes_to_the_bit(tmp_path):
    tiny_runner(tmp_path / 'start', TINY_VIT, train_cfg=dict(max_epochs=1)).train()
    start = str(tmp_path / 'start' / 'epoch_1.pth')
    whole = runner_of(tmp_path / 'whole', load_from=start)
    whole.train()
    old, new = read_whole(start)['state_dict'], read_whole(tmp_path / 'whole/epoch_4.pth')
    assert old.keys() == new['state_dict'].keys()
    changed = {n for n, v in old.items() if not torch.equal(v, new['state_dict'][n])}
    adapted = {f'{name}.weight' for name in whole.model.adapted}
    assert changed == adapted | {'head.layers.head.weight', 'head.layers.head.bias'}
    # Each layer's own weight stays.
    for name, module in adapted_modules(whole.model).items():
        assert torch.equal(module.weight, old[f'{name}.weight'])

    resumed = runner_of(
        tmp_path / 'resumed', load_from=str(tmp_path / 'whole/epoch_2.pth'), resume=True
    )
    resumed.train()
    for one, other in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(one, other)

    # The adapters alone, beside the source model, are the adapted backbone.
    adapters = str(tmp_path / 'whole' / 'adapters.pth')
    size = (tmp_path / 'whole' / 'adapters.pth').stat().st_size
    assert size < (tmp_path / 'start' / 'epoch_1.pth').stat().st_size / 2
    hooks = [HOOKS[0], {**HOOKS[1], 'adapters': adapters}]
    frozen = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)))
    other = runner_of(
        tmp_path / 'other', hooks, load_from=start, train_cfg=dict(max_epochs=1), **frozen
    )
    other.train()
    for name in adapted:
        assert torch.equal(state_of(other.model)[name], new['state_dict'][name])


def test_averages_resume_to_the_bit(tmp_path):
    """EMAHook exchanges its weights with the model's in a checkpoint; both have adapters."""
    hooks = [*HOOKS, dict(type='EMAHook', momentum=0.5)]
    twice = dict(train_cfg=dict(max_epochs=2, val_interval=2))
    runner_of(tmp_path / 'whole', hooks, **twice).train()
    start = dict(load_from=str(tmp_path / 'whole/epoch_1.pth'), resume=True)
    runner_of(tmp_path / 'resumed', hooks, **start, **twice).train()
    one, other = (read_whole(tmp_path / run / 'epoch_2.pth') for run in ('whole', 'resumed'))
    for key in ('state_dict', 'ema_state_dict'):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_the_overlay_trains_and_refuses_what_it_cannot(tmp_path):
    with pytest.raises(ValueError, match='the other strategy first'):
        toy_config(tmp_path, ['lora', 'dann'])
    with pytest.raises(ValueError, match='a mean teacher copies the weights'):
        train(toy_config(tmp_path, ['pseudo_label', 'mean_teacher', 'lora']))
    with pytest.raises(ValueError, match='has no adapters'):
        train(toy_config(tmp_path, options={'custom_hooks': [dict(type='LoRAHook')]}))


def test_prediction_and_export_take_the_plain_network():
    model = {**LORA, 'test_time': None}
    plain = plain_model_config(Config(dict(model=model))).model
    assert plain.type == 'AdaptationClassifier' and not {'lora', 'test_time'} & set(plain)
    MODELS.build(plain.to_dict()).load_state_dict(MODELS.build(copy.deepcopy(LORA)).state_dict())
