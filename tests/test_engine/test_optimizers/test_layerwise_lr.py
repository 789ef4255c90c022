"""Layer-wise learning rates against mmpretrain's and timm's own, and in real runs."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

from tests.tiny_runs import TINY_RESNET, TINY_VIT, tiny_runner
from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.optimizers.scheduler_check import absolute_rates

VIT = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch='deit-tiny'),
    head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=192),
)
SWIN = dict(
    type='ImageClassifier',
    backbone=dict(type='SwinTransformer', arch='tiny'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=768),
)
CONVNEXT = dict(
    type='ImageClassifier',
    backbone=dict(type='ConvNeXt', arch='tiny'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=768),
)
RESNET = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=2048),
)
MODELS_OF_THE_HOST = [VIT, SWIN, CONVNEXT, RESNET]


def of_type(model):
    return model['backbone']['type']


def build(
    model,
    constructor='LayerwiseLROptimWrapperConstructor',
    wrapper='OptimWrapper',
    optimizer=None,
    **paramwise,
):
    model = MODELS.build(model) if isinstance(model, dict) else model
    optimizer = optimizer or dict(type='AdamW', lr=1.0, weight_decay=0.1)
    cfg = dict(type=wrapper, optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return model, build_optim_wrapper(model, ConfigDict(cfg))


def settings_by_name(model, wrapper, keys=('lr', 'weight_decay')):
    names = {id(value): name for name, value in model.named_parameters()}
    found = {}
    for group in wrapper.optimizer.param_groups:
        for value in group['params']:
            assert names[id(value)] not in found
            found[names[id(value)]] = tuple(group[key] for key in keys)
    return found


def _small(backbone, width=16, neck=None, **options):
    pooling = dict(type='GlobalAveragePooling') if neck is None else neck
    return dict(
        type='ImageClassifier',
        backbone=dict(type=backbone, **options),
        neck=pooling,
        head=dict(type='LinearClsHead', num_classes=4, in_channels=width),
    )


def _blocks(count, **more):
    return dict(embed_dims=16, num_layers=count, num_heads=2, feedforward_channels=32, **more)


#: Small ones of every family that mmpretrain's constructor has depths for. HiViT isn't among them:
#: its own depths miss its blocks, which all get the head's rate there.
FAMILIES = [
    RESNET,
    _small('VisionTransformer', img_size=16, patch_size=8, arch=_blocks(3)),
    _small(
        'VisionTransformer',
        img_size=16,
        patch_size=8,
        arch=_blocks(2),
        out_type='avg_featmap',
        final_norm=False,
    ),
    _small('DeiT3', img_size=16, patch_size=8, arch=_blocks(2)),
    _small('BEiTViT', img_size=16, patch_size=8, arch=_blocks(2), out_type='avg_featmap'),
    _small(
        'ViTSAM', img_size=16, patch_size=8, window_size=2, arch=_blocks(2, global_attn_indexes=[1])
    ),
    _small(
        'SwinTransformer',
        64,
        img_size=64,
        window_size=2,
        arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 1, 1]),
    ),
    _small('ConvNeXt', 32, arch=dict(depths=[1, 1, 4, 1], channels=[8, 8, 16, 32])),
    _small('ConvNeXt', 32, arch=dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 32])),
    _small('ResNeSt', 128, depth=50, base_channels=4, stem_channels=4),
    _small(
        'MixMIMTransformer',
        64,
        img_size=64,
        window_size=[2, 2, 2, 2],
        arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 1, 1]),
    ),
    dict(
        _small(
            'MixMIMTransformer',
            8,
            img_size=64,
            window_size=[2, 2, 2, 2],
            neck=dict(type='BottleneckNeck', in_channels=64, out_channels=8),
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 1, 1]),
        )
    ),
]


@pytest.mark.parametrize('cfg', FAMILIES, ids=of_type)
def test_equals_mmpretrains_constructor(cfg):
    options = dict(
        layer_decay_rate=0.7,
        norm_decay_mult=0.2,
        bias_decay_mult=0.3,
        flat_decay_mult=0.4,
        custom_keys={'.cls_token': dict(decay_mult=0.5)},
    )
    model, theirs = build(cfg, 'LearningRateDecayOptimWrapperConstructor', **options)
    _, ours = build(model, **options)
    ours, theirs = settings_by_name(model, ours), settings_by_name(model, theirs)
    assert set(ours) == set(dict(model.named_parameters()))
    assert set(theirs) == {n for n, value in model.named_parameters() if value.requires_grad}
    for name in theirs:
        assert ours[name] == pytest.approx(theirs[name]), name
    # What feature extraction freezes is the whole backbone all the same.
    backbone = {name for name in ours if name.startswith('backbone.')}
    assert set(LayerMap.from_model(model).select(':-1')) == backbone


@pytest.mark.parametrize(
    'name',
    [
        'vit_tiny_patch16_224',
        'swin_tiny_patch4_window7_224',
        'convnext_atto',
        'resnet18',
        'efficientnet_b0',
        'beit_base_patch16_224',
    ],
)
def test_equals_timms_groups(name):
    import timm
    from timm.optim import param_groups_layer_decay

    with torch.device('meta'):
        timm_model = timm.create_model(name)
    model = nn.Module()
    model.model = timm_model
    names = {id(value): name for name, value in model.named_parameters()}
    groups = param_groups_layer_decay(
        timm_model,
        weight_decay=0.1,
        layer_decay=0.8,
        no_weight_decay_list=timm_model.no_weight_decay()
        if hasattr(timm_model, 'no_weight_decay')
        else (),
    )
    theirs = {
        names[id(value)]: (group['lr_scale'], group['weight_decay'])
        for group in groups
        for value in group['params']
    }
    _, ours = build(
        timm_model,
        layer_decay_rate=0.8,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
    )
    ours = settings_by_name(model, ours)
    assert set(ours) == set(theirs)
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key]), key


@pytest.mark.parametrize('cfg', [*MODELS_OF_THE_HOST, TINY_RESNET], ids=of_type)
@pytest.mark.parametrize('frozen', [False, True])
def test_groups_are_few_and_the_same_whatever_is_frozen(cfg, frozen):
    model = MODELS.build(cfg)
    for value in model.backbone.parameters():
        value.requires_grad = not frozen
    _, wrapper = build(
        model, layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    )
    layers = LayerMap.from_model(model)
    groups = wrapper.optimizer.param_groups
    assert len(groups) <= 2 * layers.num_layers + 1
    assert sum(len(group['params']) for group in groups) == len(list(model.parameters()))
    for group in groups:
        kind = 'decay' if group['weight_decay'] else 'no_decay'
        as_head = '/rate_of_head' if group['name'].endswith('head') else ''
        assert group['name'] == f'layer_{group["layer"]:02d}/{kind}{as_head}'
    assert [group['layer'] for group in groups] == sorted(
        (group['layer'] for group in groups), reverse=True
    )


def test_multipliers_of_layers_and_keys():
    model, wrapper = build(
        TINY_VIT,
        layer_decay_rate=0.5,
        base_lr_mult=0.1,
        head_lr_mult=10.0,
        bias_lr_mult=2.0,
        norm_decay_mult=0.25,
        custom_keys={
            'layers.2': dict(lr_mult=3.0),
            r'layers\.2\..*qkv': dict(lr_mult=5.0, decay_mult=0.5),
            'cls_token': dict(betas=[0.5, 0.6]),
        },
    )
    found = settings_by_name(model, wrapper, ('lr', 'weight_decay', 'betas', 'name'))
    usual = (0.9, 0.999)
    # Depths: stem 0, layers 1 to 3 (the final norm goes with the last, at the head's rate but for
    # head_lr_mult), head 4.
    expected = {
        'head.layers.head.weight': (1.0, 0.1, usual, 'layer_04/decay'),
        'head.layers.head.bias': (2.0, 0.1, usual, 'layer_04/decay/lr_x2.0'),
        'backbone.ln1.weight': (0.1, 0.025, usual, 'layer_03/decay_x0.25/rate_of_head'),
        'backbone.layers.2.ln1.weight': (0.15, 0.025, usual, None),
        'backbone.layers.2.attn.qkv.weight': (0.25, 0.05, usual, None),
        'backbone.layers.2.attn.proj.bias': (0.3, 0.1, usual, None),
        'backbone.layers.0.attn.proj.weight': (0.0125, 0.1, usual, 'layer_01/decay'),
        'backbone.cls_token': (0.00625, 0.1, (0.5, 0.6), 'layer_00/decay/betas=(0.5, 0.6)'),
    }
    for name, (lr, decay, betas, title) in expected.items():
        assert found[name][:2] == pytest.approx((lr, decay)), name
        assert found[name][2] == betas
        assert title is None or found[name][3] == title
    titles = [group['name'] for group in wrapper.optimizer.param_groups]
    assert len(set(titles)) == len(titles)


def test_groups_can_be_traced():
    # dynamo knows no ConfigDict: with one a compiled step breaks.
    _, wrapper = build(
        TINY_VIT, layer_decay_rate=0.5, custom_keys=dict(head=dict(betas=[0.0, 0.5]))
    )
    assert {type(group) for group in wrapper.optimizer.param_groups} == {dict}


def test_what_models_list_is_not_decayed():

    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(2, 2))
            self.relative_table = nn.Parameter(torch.zeros(2, 2))
            self.state = nn.Parameter(torch.zeros(2, 2))
            self.state._no_weight_decay = True
            self.fc = nn.Linear(2, 2)

        def no_weight_decay(self):
            return {'tab*'}

        def no_weight_decay_keywords(self):
            return {'relative'}

    model = nn.Sequential(Keyed(), nn.Linear(2, 2))
    found = settings_by_name(*build(model))
    assert {name for name, (_, decay) in found.items() if decay == 0} == {
        '0.table',
        '0.relative_table',
        '0.state',
    }
    found = settings_by_name(*build(model, custom_keys={'table': dict(decay_mult=1.0)}))
    assert found['0.relative_table'][1] == 0.1


def test_shared_parameters_are_held_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    found = settings_by_name(*build(model, layer_decay_rate=0.5))
    assert set(found) == {'0.weight', '0.bias', '1.weight', '1.bias', '2.bias'}


class WithoutDefault(torch.optim.SGD):
    """As torch's Adafactor has it in some releases and not in others."""

    def __init__(self, params, lr=None, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)


def test_optimizer_without_lr_or_weight_decay():
    found = settings_by_name(
        *build(TINY_VIT, optimizer=dict(type='AdamW'), norm_decay_mult=0.0, layer_decay_rate=0.5)
    )
    # torch's own defaults
    assert found['head.layers.head.weight'] == (1e-3, 1e-2)
    assert found['backbone.ln1.weight'] == (1e-3, 0.0)
    assert found['backbone.layers.2.ln1.weight'] == (5e-4, 0.0)
    # mmpretrain's
    found = settings_by_name(*build(TINY_VIT, optimizer=dict(type='Adan'), norm_decay_mult=0.5))
    assert found['head.layers.head.weight'] == (1e-3, 0.0)
    with pytest.raises(ValueError, match=r'give the optimizer .*WithoutDefault.* an lr'):
        build(TINY_VIT, optimizer=dict(type=WithoutDefault, lr=None))
    _, wrapper = build(TINY_VIT, optimizer=dict(type='Rprop', lr=0.1), norm_decay_mult=0.0)
    assert all('weight_decay' not in group for group in wrapper.optimizer.param_groups)


@pytest.mark.parametrize(
    'paramwise, error',
    [
        (dict(layer_decay=0.5), r"no option 'layer_decay'. Did you mean 'layer_decay_rate'"),
        (dict(layer_decay_rate=75), 'layer_decay_rate=75: expected a factor above 0 and up to 1'),
        (dict(head_lr_mult=-1), 'head_lr_mult=-1: expected 0 or more'),
        (dict(head_lr_mult='10'), 'head_lr_mult must be a number'),
        (dict(custom_keys=dict(a=3)), r"custom_keys\['a'\] must be dict"),
        (dict(custom_keys={'(': dict(lr_mult=1)}), 'no regular expression'),
        (dict(custom_keys=dict(head=dict(lr_mul=1))), 'did you mean lr_mult'),
        (
            dict(custom_keys={'backbone.layr': dict(lr_mult=2.0)}),
            r"'backbone.layr' matches no parameter. Nearest: backbone.layers",
        ),
    ],
)
def test_wrong_options_are_told(paramwise, error):
    with pytest.raises((ValueError, TypeError), match=error):
        build(TINY_VIT, **paramwise)


def test_the_hosts_keys_for_other_variants_are_a_warning(tmp_path):
    log = train(tmp_path, dict(custom_keys={'.absolute_pos_embed': dict(decay_mult=0.0)}))
    assert "WARNING - custom_keys: '.absolute_pos_embed' matches no parameter" in log


def test_keys_with_a_leading_dot_match_at_the_top_too():
    found = settings_by_name(*build(TINY_VIT, custom_keys={'.backbone': dict(lr_mult=0.5)}))
    assert found['backbone.cls_token'][0] == 0.5


def train(work_dir, paramwise, **changes):
    runner = tiny_runner(
        work_dir,
        TINY_VIT,
        optim_wrapper=dict(
            constructor='LayerwiseLROptimWrapperConstructor', paramwise_cfg=paramwise
        ),
        train_cfg=dict(max_epochs=1),
        **changes,
    )
    runner.train()
    return next(work_dir.glob('*/*.log')).read_text()


def test_the_log_shows_every_group(tmp_path):
    log = train(tmp_path, dict(layer_decay_rate=0.5, flat_decay_mult=0.0))
    rows = [line for line in log.splitlines() if line.startswith('| layer_')]
    assert len(rows) == 11
    assert rows[0].split()[1:6:2] == ['layer_04/decay', '0.01', '0.01']
    # mmengine logs the first group's rate: the head's.
    assert 'lr: 1.0000e-02' in log


@pytest.mark.parametrize(
    'scheduler, warned',
    [
        (dict(type='CosineAnnealingLR', eta_min=1e-6, T_max=1), 'eta_min=1e-06'),
        (dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, T_max=1), None),
        (dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False), 'eta_max=0.1'),
        (
            dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', min_value=1e-5),
            'min_value=1e-05',
        ),
        (dict(type='LinearLR', start_factor=0.1), None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_scheduler_that_destroys_the_ratios_is_warned_of(tmp_path, scheduler, warned):
    log = train(
        tmp_path,
        dict(layer_decay_rate=0.5),
        param_scheduler=[scheduler],
        custom_hooks=[dict(type='MonitorCheckHook')],
    )
    assert ('destroys the ratios' in log) == (warned is not None)
    assert warned is None or (f'{scheduler["type"]} has {warned}' in log)
    assert bool(absolute_rates(scheduler)) == (warned is not None)


def test_equal_rates_need_no_warning(tmp_path):
    scheduler = dict(type='CosineAnnealingLR', eta_min=1e-6, T_max=1)
    hooks = [dict(type='MonitorCheckHook')]
    assert 'destroys' not in train(tmp_path, {}, param_scheduler=[scheduler], custom_hooks=hooks)


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='SGD', lr=0.1, momentum=0.9),
        dict(type='AdamW', lr=0.01, weight_decay=0.1),
        dict(type='Lamb', lr=0.01, weight_decay=0.1),
        dict(type='Adan', lr=0.01),
        dict(type='LARS', lr=0.1),
    ],
    ids=lambda cfg: cfg['type'],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, optimizer):
    scheduler = dict(type='CosineAnnealingLR', T_max=4, eta_min_ratio=0.1)
    changes = dict(
        param_scheduler=[scheduler],
        optim_wrapper=dict(
            constructor='LayerwiseLROptimWrapperConstructor',
            optimizer=dict(_delete_=True, **optimizer),
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    straight = tiny_runner(tmp_path, **copy.deepcopy(changes))
    straight.train()
    resumed = tiny_runner(
        tmp_path / 'resumed', **changes, resume=True, load_from=str(tmp_path / 'epoch_2.pth')
    )
    resumed.train()
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    names = [group['name'] for group in resumed.optim_wrapper.optimizer.param_groups]
    assert names[0] == 'layer_04/decay' or names[0] == 'layer_04/no_decay'
    rates = [group['lr'] for group in resumed.optim_wrapper.optimizer.param_groups]
    assert rates[0] / rates[-1] == pytest.approx(2.0**4)


def test_mixed_precision():
    _, wrapper = build(TINY_VIT, wrapper='CPUAmpOptimWrapper', layer_decay_rate=0.5)
    assert isinstance(wrapper, AmpOptimWrapper)
    assert len(wrapper.optimizer.param_groups) > 5
