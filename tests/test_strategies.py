import pytest
import torch
from mmengine.config import Config

from tests.toy import stock_config, target, toy_config, train
from tl_plugin.strategies import apply_strategies, available_strategies, overlay_path

# Families of backbones, with and without batch augmentation, small images where they take them.
STOCK_CONFIGS = {
    'resnet/resnet18_8xb16_cifar10.py': 32,
    'resnet/resnet50_8xb16-mixup_cifar10.py': 32,
    'resnet/resnet18_8xb32_in1k.py': 64,
    'deit/deit-tiny_4xb256_in1k.py': 64,
    'swin_transformer/swin-tiny_16xb64_in1k.py': 224,
    'convnext/convnext-tiny_32xb128_in1k.py': 64,
    'mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py': 64,
    'efficientnet/efficientnet-b0_8xb32_in1k.py': 64,
    'regnet/regnetx-400mf_8xb128_in1k.py': 64,
    'van/van-tiny_8xb128_in1k.py': 64,
    't2t_vit/t2t-vit-t-14_8xb64_in1k.py': 224,
    'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py': 64,
    'poolformer/poolformer-s12_32xb128_in1k.py': 64,
}
# Those that take long, or that every overlay trains, are cut down to fewer or thinner layers.
THINNED = {
    'resnet/resnet18_8xb16_cifar10.py': {
        'model.backbone.base_channels': 16,
        'model.backbone.stem_channels': 16,
        'model.head.in_channels': 128,
    },
    'deit/deit-tiny_4xb256_in1k.py': {
        'model.backbone.img_size': 64,
        'model.backbone.arch': dict(
            _delete_=True, embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768
        ),
    },
    'swin_transformer/swin-tiny_16xb64_in1k.py': {
        'model.backbone.arch': dict(
            _delete_=True, embed_dims=96, depths=[1, 1, 1, 1], num_heads=[3, 6, 12, 24]
        ),
    },
}
# Networks whose building alone takes seconds.
HEAVY = (
    'resnet/resnet50_8xb16-mixup_cifar10.py',
    'swin_transformer/swin-tiny_16xb64_in1k.py',
    'convnext/convnext-tiny_32xb128_in1k.py',
    't2t_vit/t2t-vit-t-14_8xb64_in1k.py',
    'van/van-tiny_8xb128_in1k.py',
    'poolformer/poolformer-s12_32xb128_in1k.py',
)
GAP = dict(type='GlobalAveragePooling')
# A loss sees one vector of features and one of scores, whatever the network: all of them are tried
# on batch norms, and on tokens with a thousand classes and mixed labels.
TWO_KINDS = (
    'resnet/resnet18_8xb16_cifar10.py',
    'deit/deit-tiny_4xb256_in1k.py',
)
# Of these families timm has small ones for tests.
TIMM_BACKBONES = ('test_resnet', 'test_vit', 'test_convnext')


class TestMerging:
    def test_dicts_merge_hooks_append_imports_unite(self, tmp_path):
        first, second = tmp_path / 'first.py', tmp_path / 'second.py'
        first.write_text(
            "custom_imports = dict(imports=['tl_plugin'])\n"
            "custom_hooks = [dict(type='EMAHook')]\n"
            'optim_wrapper = dict(optimizer=dict(lr=0.5))\n'
        )
        second.write_text(
            "custom_imports = dict(imports=['os', 'tl_plugin'])\n"
            "custom_hooks = [dict(type='PreciseBNHook')]\n"
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=0.25))\n"
        )
        cfg = Config(
            dict(
                custom_imports=dict(imports='math'),
                custom_hooks=[dict(type='SyncBuffersHook')],
                optim_wrapper=dict(
                    optimizer=dict(type='SGD', lr=1.0, momentum=0.9), clip_grad=None
                ),
            )
        )
        before = cfg.pretty_text

        one = apply_strategies(cfg, [str(first)])
        both = apply_strategies(cfg, [str(first), str(second)])

        assert one.optim_wrapper == dict(
            optimizer=dict(type='SGD', lr=0.5, momentum=0.9), clip_grad=None
        )
        assert both.optim_wrapper == dict(optimizer=dict(type='Adam', lr=0.25), clip_grad=None)
        assert [hook.type for hook in both.custom_hooks] == [
            'SyncBuffersHook',
            'EMAHook',
            'PreciseBNHook',
        ]
        assert both.custom_imports.imports == ['math', 'tl_plugin', 'os']
        assert cfg.pretty_text == before

    def test_a_dict_that_replaces_nothing_is_just_added(self, tmp_path):
        overlay = tmp_path / 'overlay.py'
        overlay.write_text('model = dict(neck=dict(_delete_=True, type=1, x=dict(_delete_=True)))')
        found = [
            apply_strategies(Config(dict(model=model)), [str(overlay)]).model.neck
            for model in (dict(type='A'), dict(neck=None), dict(neck=dict(y=1)), dict(neck=[1]))
        ]
        assert found == 4 * [dict(type=1, x=dict())]

    def test_what_came_with_it_runs_from_its_own_dump(self, tmp_path):
        cfg = toy_config(tmp_path, ['dann', 'feature_extraction'])
        cfg.dump(str(tmp_path / 'dumped.py'))
        again = Config.fromfile(tmp_path / 'dumped.py')
        assert again.model.type == 'AdaptationClassifier'
        assert again.train_cfg == dict(type='AdaptationTrainLoop', max_epochs=2, val_interval=2)
        assert 'FreezeHook' in [hook.type for hook in again.custom_hooks]


class TestErrors:
    def test_an_unknown_name_gets_the_nearest(self):
        with pytest.raises(ValueError, match=r"'fine_tun'\. Did you mean 'fine_tune'"):
            overlay_path('fine_tun')

    def test_a_path_without_a_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'no overlay at .*mine\.py'):
            overlay_path(str(tmp_path / 'mine.py'))

    def test_the_same_strategy_twice(self):
        with pytest.raises(ValueError, match='dann came twice'):
            apply_strategies(Config(), ['dann', 'source_only', 'dann'])

    @pytest.mark.parametrize(
        ('cfg', 'message'),
        [
            (
                dict(model=dict(type='TimmClassifier')),
                "model.type .* has 'TimmClassifier': .*put the network",
            ),
            (dict(train_cfg=dict(type='MyLoop')), "train_cfg.type .* has 'MyLoop'"),
        ],
    )
    def test_a_component_that_cannot_be_replaced(self, cfg, message):
        cfg.setdefault('model', dict(type='mmpretrain.ImageClassifier'))
        with pytest.raises(ValueError, match=message):
            apply_strategies(Config(cfg), ['dann'])

    def test_the_cure_for_a_whole_model_trains(self, tmp_path):
        # "put the network into an ImageClassifier, a timm model as PooledTimmBackbone"
        model = dict(
            _delete_=True,
            type='ImageClassifier',
            backbone=dict(type='PooledTimmBackbone', model_name='test_resnet'),
            head=dict(type='LinearClsHead', num_classes=3),
        )
        cfg = toy_config(tmp_path, options={'model': model}, max_epochs=1)
        cfg = apply_strategies(cfg, ['dann'])
        cfg.merge_from_dict(target())
        assert train(cfg).iter == 3

    @pytest.mark.parametrize(
        'names',
        [['dann', 'shot'], ['shot', 'mcc'], ['mmd.py', 'feature_extraction_cached']],
    )
    def test_one_run_has_one_loop(self, names, tmp_path):
        names = [overlay_path('dan').as_posix() if name == 'mmd.py' else name for name in names]
        stock = dict(model=dict(type='ImageClassifier'), train_cfg=dict(by_epoch=True))
        with pytest.raises(ValueError, match='take one of the strategies that set it, or give'):
            apply_strategies(Config(stock), names)
        for name in names:  # one of them; and the second on a stock loop
            assert apply_strategies(Config(stock), [name]).train_cfg.type.endswith('TrainLoop')

    @pytest.mark.parametrize(
        ('names', 'message'),
        [
            (['label_smoothing', 'robust_loss'], r"both set model.head.loss.type, to 'LabelSmooth"),
            (['sar', 'tent'], r"both set model.test_time.method, to 'sar' and 'tent'"),
            (['adabn', 'frozen_alignment'], "'adabn' replaces these: take one of the two"),
            (['self_training', 'adabn'], 'fits the last layer to features'),
            (['dann', 'no_training'], r"both set train_cfg.type, to 'AdaptationTrainLoop'"),
            (['dann_schedule', 'frozen_alignment'], 'both set param_scheduler'),
            (['frozen_alignment', 'robust_loss'], 'no training step, so that robust_loss would'),
            (['fine_tune', 'adabn', 'no_training'], 'step, so that fine_tune would do nothing'),
        ],
    )
    def test_strategies_that_undo_each_other(self, names, message, tmp_path):
        cfg = Config(dict(model=dict(type='ImageClassifier', head=dict(loss=dict(type='A')))))
        for name in names:
            apply_strategies(cfg, [name])
        with pytest.raises(ValueError, match=message):
            apply_strategies(cfg, names)
        # An overlay file of one's own may, as the message says.
        own = tmp_path / 'mine.py'
        own.write_text(overlay_path(names[1]).read_text())
        assert apply_strategies(cfg, [names[0], str(own)]).model.type

    def test_adapters_that_are_frozen(self, tmp_path):
        options = {'model.backbone.type': 'ResNet', 'model.lora.rank': 2}
        with pytest.raises(ValueError, match='the adapters of all 3 layers are frozen, so that'):
            train(toy_config(tmp_path, ['feature_extraction', 'lora'], options, max_epochs=1))


def test_the_schedule_of_dann_adds_no_adversary():
    stock = Config(dict(model=dict(type='ImageClassifier'), train_cfg=dict(by_epoch=True)))
    assert apply_strategies(stock, ['dann_schedule']).model == stock.model
    cfg = apply_strategies(stock, ['cdan', 'dann_schedule'])
    assert list(cfg.model.alignments) == ['cdan']
    assert cfg.param_scheduler.type == 'InverseDecayLR'


def test_every_overlay_says_what_when_paper_and_options():
    for name, path in available_strategies().items():
        text = path.read_text()
        for word in ('# What ', '# When ', '# Paper ', '# Options '):
            assert word in text, (name, word)


# What asks the network something: these run on every kind of it.
EVERYWHERE = ('feature_extraction', 'fine_tune', 'gradual_unfreeze', 'dann')
# What needs more than every config has is tried by the tests of its hooks and loops.
ELSEWHERE = {
    'aad',
    'adabn',
    'frozen_alignment',
    'interpolation',
    'label_shift_guard',
    'lora',
    'no_training',
    'quality_matched',
    'retention',
    'self_training',
    'shot',
    'similarity',
    'weighted_labels',
}


def _anywhere():
    return [name for name in available_strategies() if name not in ELSEWHERE]


def test_few_overlays_are_left_out():
    assert set(available_strategies()) > ELSEWHERE
    assert set(EVERYWHERE) < set(_anywhere())
    assert set(TWO_KINDS) < set(STOCK_CONFIGS)


def _train_one_step(path, folder, names):
    for name in names:
        cfg = stock_config(
            path,
            folder / name,
            [name],
            image_size=STOCK_CONFIGS[path],
            network=THINNED.get(path),
        )
        runner = train(cfg)
        assert runner.iter == 1, name
        logged = runner.message_hub.log_scalars
        assert torch.isfinite(torch.tensor(logged['train/loss'].current())), name
        for loss in (*cfg.model.get('alignments', {}), *cfg.model.get('regularizers', {})):
            assert f'train/loss_{loss}' in logged, name


def _slow(paths, slow):
    return [pytest.param(p, marks=pytest.mark.slow) if p in slow else p for p in paths]


@pytest.mark.parametrize('path', _slow(TWO_KINDS, TWO_KINDS[1:]))
def test_every_overlay_trains_two_kinds_of_network(path, tmp_path):
    _train_one_step(path, tmp_path, _anywhere())


@pytest.mark.parametrize('path', _slow([p for p in STOCK_CONFIGS if p != TWO_KINDS[0]], HEAVY))
def test_the_basic_overlays_train_stock_configs(path, tmp_path):
    _train_one_step(path, tmp_path, EVERYWHERE)


@pytest.mark.slow
@pytest.mark.parametrize('path', [path for path in STOCK_CONFIGS if path not in TWO_KINDS])
def test_the_other_overlays_train_stock_configs(path, tmp_path):
    _train_one_step(path, tmp_path, set(_anywhere()) - set(EVERYWHERE))


@pytest.mark.parametrize('model_name', TIMM_BACKBONES)
@pytest.mark.parametrize('kind', ['PooledTimmBackbone', 'TIMMBackbone'])
def test_overlays_on_timm_backbones(kind, model_name, tmp_path):
    if kind == 'TIMMBackbone' and model_name == 'test_vit':
        pytest.skip("mmpretrain's TIMMBackbone gives tokens that its necks and heads can't take")
    for name in ('feature_extraction', 'fine_tune', 'dann'):
        cfg = stock_config(
            'resnet/resnet18_8xb32_in1k.py',
            tmp_path / name,
            [name],
            options={
                'model.type': 'AdaptationClassifier',
                'model.backbone': dict(_delete_=True, type=kind, model_name=model_name),
                'model.neck': None if kind.startswith('Pooled') else GAP,
                'model.head.in_channels': None,
            },
            image_size=160,
        )
        assert train(cfg).iter == 1


def test_strategies_compose(tmp_path):
    cfg = toy_config(tmp_path, ['dann', 'feature_extraction', 'fine_tune'])
    cfg.train_cfg.target_dataloader = dict(dataset=dict(shift=0.5, labels='none'))
    runner = train(cfg)
    assert not any(p.requires_grad for p in runner.model.backbone.parameters())
    assert all(p.requires_grad for p in runner.model.alignments.parameters())
    assert {group['name'] for group in runner.optim_wrapper.param_groups if 'name' in group}


def test_all_losses_combine(tmp_path):
    changes = {name: Config.fromfile(path) for name, path in available_strategies().items()}
    names = [
        name
        for name, overlay in changes.items()
        if {'alignments', 'regularizers'} & set(overlay.get('model', {}))
        and name not in ELSEWHERE | {'adamatch', 'mean_teacher', 'mic'}
    ]
    runner = train(toy_config(tmp_path, names, target(), max_epochs=1))
    logged = runner.message_hub.log_scalars
    losses = [key for key in logged if key.startswith('train/loss_')]
    assert set(losses) == {'train/loss_cls', *(f'train/loss_{name}' for name in names)}
    total = sum(logged[key].current() for key in losses)
    assert logged['train/loss'].current() == pytest.approx(total, rel=1e-4)
