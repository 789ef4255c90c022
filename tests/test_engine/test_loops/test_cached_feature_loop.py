"""Training from a cache equals training without one, and a cache is used for its own run alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, MODELS
from PIL import Image

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.folders import CLASSES, WRAPPERS, folder, make_folders
from tests.toy import toy_config, train
from tl_plugin.engine.feature_cache.store import FeatureStore
from tl_plugin.engine.loops import CachedFeatureTrainLoop, cached_feature_loop

CACHED, PLAIN = ('feature_extraction_cached',), ('feature_extraction',)
FLIP = [dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
NORM_NECK = {
    'model.neck': [
        dict(type='GlobalAveragePooling'),
        dict(type='LinearNeck', in_channels=64, out_channels=8, gap_dim=0),
    ],
}


@HOOKS.register_module(force=True)
class RecordLossHook(Hook):
    def __init__(self) -> None:
        self.losses, self.images = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.losses.append(float(outputs['loss']))
        self.images.append([sample.get('sample_idx') for sample in data_batch['data_samples']])


def make(work_dir, strategies, options=None, **length):
    cfg = toy_config(work_dir, strategies, options, **length)
    cfg.custom_hooks = [dict(type='ExactResumeHook'), *cfg.custom_hooks]
    cfg.custom_hooks.append(dict(type='RecordLossHook'))
    return cfg


def run(work_dir, strategies=CACHED, options=None, hooks=(), **length):
    cfg = make(work_dir, strategies, options, **length)
    cfg.custom_hooks += hooks
    runner = train(cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, RecordLossHook))
    return runner, hook


def log_of(folder):
    return ''.join(path.read_text() for path in Path(folder).glob('*/*.log'))


def caches(folder):
    return sorted(Path(folder).glob('[!.]*'))


#: What changes -> the stage up to which nothing trains.
STAGES = {
    'neck': {},
    'backbone': {**NORM_NECK, 'model.head.in_channels': 8},
    'pre_logits': {
        'model.head.type': 'StackedLinearClsHead',
        'model.head.mid_channels': [6],
        'model.head.norm_cfg': dict(type='BN1d'),
    },
    'domain_specific_bn': {'model.type': 'AdaptationClassifier', 'model.domain_specific_bn': True},
}


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize('length', [dict(max_epochs=3), dict(max_iters=7)], ids=str)
def test_it_trains_as_without_a_cache(tmp_path, stage, length):
    options = {'train_dataloader.dataset.size': 14, **STAGES[stage]}
    hooks = [dict(type='FreezeHook', patterns=[r'head\.layers\.0'])] * (stage == 'pre_logits')
    plain, wanted = run(tmp_path / 'plain', PLAIN, options, hooks, **length)
    cached, found = run(tmp_path / 'cached', CACHED, options, hooks, **length)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.images == wanted.images
    expected, state = plain.model.state_dict(), cached.model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    assert 'train/loss' in cached.message_hub.log_scalars
    assert cached.val_loop.evaluator.metrics
    assert cached.train_loop._stage.name == ('neck' if stage == 'domain_specific_bn' else stage)


@pytest.mark.parametrize('wrapper', ['repeat', 'joined', 'fold', 'several'])
def test_wrapped_data_train_as_without_a_cache(tmp_path, wrapper):
    losses = []
    for name, strategies in (('plain', PLAIN), ('cached', CACHED)):
        cfg = make(tmp_path / name, strategies, {'train_dataloader.dataset.size': 6}, max_epochs=1)
        inner = cfg.train_dataloader.dataset
        cfg.train_dataloader.dataset = WRAPPERS[wrapper](inner)
        (hook,) = (hook for hook in train(cfg).hooks if isinstance(hook, RecordLossHook))
        losses.append(hook.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_an_image_that_cannot_be_read_is_replaced_under_a_cache(tmp_path):
    root = make_folders(tmp_path / 'images')
    broken, *whole = sorted(root.rglob('*.png'))
    broken.write_bytes(b'no image')
    for number, path in enumerate(whole):
        Image.new('RGB', (16, 16), (20 * number, 90, 200)).save(path)
    cfg = make(tmp_path / 'run', CACHED, max_epochs=2)
    cfg.train_dataloader.dataset = folder(root)
    cfg.custom_hooks.append(dict(type='BadImagesHook', limit=0.5))
    cfg.model.head.num_classes = len(CLASSES)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    train(cfg)
    assert 'could not be read' in log_of(tmp_path / 'run')


def test_its_checkpoint_is_the_whole_ordinary_model(tmp_path):
    runner, _ = run(tmp_path / 'run', options={'train_cfg.val_interval': 1})
    cfg = toy_config(tmp_path / 'test')
    cfg.load_from = str(tmp_path / 'run' / 'epoch_2.pth')
    tested = Runner.from_cfg(cfg).test()
    assert tested['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()


@pytest.mark.parametrize('length', [dict(max_epochs=2), dict(max_iters=6)], ids=str)
def test_a_resumed_run_ends_bit_equal_and_computes_nothing(tmp_path, length):
    whole, _ = run(tmp_path / 'whole', **length)
    cfg = make(tmp_path / 'whole', CACHED, **length)
    name = 'epoch_1.pth' if 'max_epochs' in length else 'iter_2.pth'
    cfg.resume, cfg.load_from = True, str(tmp_path / 'whole' / name)
    (place,) = caches(tmp_path / 'whole' / 'feature_cache')
    written = place.stat().st_mtime_ns
    resumed = train(cfg)
    state = resumed.model.state_dict()
    assert all(torch.equal(state[n], v) for n, v in whole.model.state_dict().items())
    assert place.stat().st_mtime_ns == written


CHANGES = {
    'data': {'train_dataloader.dataset.seed': 5},
    'labels': {'train_dataloader.dataset.labels': 'scrambled'},
    'pipeline': {'train_dataloader.dataset.pipeline': [dict(FLIP[0], prob=1.0), FLIP[1]]},
    'preprocessor': {'data_preprocessor.mean': [1.0, 2.0, 3.0]},
    'precision': {'train_cfg.feature_dtype': 'bfloat16'},
    'views': {'train_cfg.views': 2},
    'weights': {'randomness.seed': 1},
    'network': {'model.backbone.out_indices': (2,), 'model.head.in_channels': 32},
}


def test_a_cache_is_used_for_nothing_else(tmp_path):
    shared = {'train_cfg.cache_dir': str(tmp_path / 'caches')}
    run(tmp_path / '0', options=shared, max_epochs=1)
    run(tmp_path / '1', options=shared, max_epochs=1)
    head = {**shared, 'optim_wrapper.optimizer.lr': 0.5, 'train_dataloader.batch_size': 6}
    run(tmp_path / '2', options=head, max_epochs=1)
    assert len(caches(tmp_path / 'caches')) == 1
    for count, (name, change) in enumerate(CHANGES.items(), 2):
        run(tmp_path / name, options={**shared, **change}, max_epochs=1)
        assert len(caches(tmp_path / 'caches')) == count, name


@pytest.mark.parametrize('harm', ['rows', 'file'])
def test_a_cache_that_was_changed_is_computed_again(tmp_path, harm):
    _, wanted = run(tmp_path)
    (place,) = caches(tmp_path / 'feature_cache')
    size = (place / '0.bin').stat().st_size
    (place / '0.bin').write_bytes(b'\1' * (size if harm == 'rows' else 7))
    _, found = run(tmp_path)
    assert found.losses == wanted.losses
    text = {'rows': 'not those of this model', 'file': 'not a whole feature cache'}[harm]
    assert text in log_of(tmp_path)


def test_views_take_turns(tmp_path):
    options = {'train_dataloader.dataset.pipeline': FLIP, 'train_dataloader.dataset.size': 40}
    runner, _ = run(tmp_path / 'one', options=options)
    assert 'one view' in log_of(tmp_path / 'one')
    runner, _ = run(tmp_path / 'two', options={**options, 'train_cfg.views': 2}, max_epochs=3)
    assert 'one view' not in log_of(tmp_path / 'two')
    loader = runner.train_dataloader
    store = FeatureStore(*caches(tmp_path / 'two' / 'feature_cache'))
    assert len(store) == 80 and not torch.equal(*store.leaves[0].split(40))
    for number in range(3):
        loader.seek(number)
        batch = next(iter(loader))
        rows = [sample.sample_idx + number % 2 * 40 for sample in batch['data_samples']]
        assert torch.equal(batch.features[0], store.leaves[0][rows])
        assert batch['data_samples'][0].get('img_path') == f'image {rows[0] % 40} of ToyDataset'


@pytest.mark.parametrize('soft', [True, False])
def test_mixup_is_left_out_and_its_labels_stay_soft(soft, tmp_path):
    options = {
        'model.train_cfg': dict(augments=dict(type='Mixup', alpha=1.0)),
        'model.head.loss': dict(type='CrossEntropyLoss', use_soft=soft),
        'model.head.cal_acc': False,
    }
    runner, hook = run(tmp_path, options=options)
    assert 'Batch augmentations (Mixup)' in log_of(tmp_path) and len(hook.losses) == 6
    _, plain = run(tmp_path / 'hard')
    assert hook.losses == pytest.approx(plain.losses, rel=1e-5)
    assert runner.model.data_preprocessor.batch_augments is not None


@pytest.mark.parametrize(
    ('hook', 'message'),
    [
        (dict(type='FreezeHook', layers=':-1', norm='train'), 'BatchNorm2d in training mode.*eval'),
        (dict(type='FreezeHook', layers=':-1', norm_affine='trained'), 'norm_affine'),
        (dict(type='FreezeHook', layers=':-3'), r'a part of it trains: layer4\..*layers=.:-1'),
        (dict(type='GradualUnfreezeHook', layers=':-1', schedule=dict(until=0.9)), 'unfreezes'),
        (dict(type='FreezeHook', layers='2:-1'), 'a part of it trains: conv1.weight.*Freeze all'),
    ],
)
def test_what_is_not_fixed_is_refused(tmp_path, hook, message):
    cfg = make(tmp_path, CACHED)
    cfg.custom_hooks = [hook]
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_losses_that_need_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'the losses .* look at the images'):
        run(tmp_path, ('lwf', *CACHED))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_cfg.views': 0}, 'views=0'),
        ({'train_cfg.feature_dtype': 'int8'}, 'float16, bfloat16'),
        ({'train_dataloader.dataset.labels': 'none'}, 'no label'),
        ({'model.head.num_classes': 2}, 'out of range: the head has 2'),
    ],
)
def test_settings_that_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, options=options)


def test_either_epochs_or_iterations():
    with pytest.raises(ValueError, match=r'by epoch .* or by iteration'):
        CachedFeatureTrainLoop(None, {}, max_epochs=1, max_iters=1)


@HOOKS.register_module(force=True)
class AdaptHook(Hook):
    """Changes the backbone, as hooks do that re-estimate statistics or unfreeze layers."""

    def __init__(self, what) -> None:
        self.what = what

    def after_train_epoch(self, runner) -> None:
        weight = runner.model.backbone.conv1.weight
        if self.what == 'unfreeze':
            weight.requires_grad_(True)
        else:
            with torch.no_grad():
                weight.add_(float(self.what))


@pytest.mark.parametrize('what', ['unfreeze', '1', '0'])
def test_a_backbone_that_changes_during_the_run_ends_it(tmp_path, what):
    cfg = make(tmp_path, CACHED)
    cfg.custom_hooks.append(dict(type='AdaptHook', what=what))
    if what == '0':  # written, but with the values that were there
        assert train(cfg).epoch == 2
        return
    with pytest.raises(RuntimeError, match='have changed during the run'):
        train(cfg)


def test_a_network_without_stages_is_refused(tmp_path):
    model = dict(type='TimmClassifier', model_name='test_resnet', num_classes=3)
    cfg = make(tmp_path, CACHED)
    cfg.model = {
        **model,
        'data_preprocessor': dict(cfg.data_preprocessor, type='ClsDataPreprocessor'),
    }
    with pytest.raises(NotImplementedError, match=r'extract_feat\(stage=...\), which TimmClass'):
        train(cfg)


class BatchMixing(torch.nn.Module):
    def forward(self, inputs):
        return (inputs[0] - inputs[0].mean(0, keepdim=True),)


def test_features_that_depend_on_the_batch_are_refused(tmp_path):
    MODELS.register_module(module=BatchMixing, force=True)
    options = {'model.neck': [dict(type='GlobalAveragePooling'), dict(type='BatchMixing')]}
    with pytest.raises(ValueError, match='depends on the other images'):
        run(tmp_path, options=options)


@HOOKS.register_module(force=True)
class CountThreadsHook(Hook):
    """Notes the number of threads with which the head computes, and that around the step."""

    def before_run(self, runner) -> None:
        self.inside, self.outside = [], []
        runner.model.head.fc.register_forward_hook(self._count)

    def _count(self, module, inputs, output) -> None:
        if module.training:
            self.inside.append(torch.get_num_threads())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.outside.append(torch.get_num_threads())


@pytest.mark.parametrize(('light', 'threads'), [(20_000_000, 1), (0, 3)])
def test_a_small_head_trains_on_one_thread(tmp_path, monkeypatch, light, threads):
    monkeypatch.setattr(cached_feature_loop, '_MAX_WORK_OF_ONE_THREAD', light)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        runner, _ = run(tmp_path, hooks=[dict(type='CountThreadsHook')])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, CountThreadsHook))
    assert hook.inside == [threads] * 6 and hook.outside == [3] * 6


def _on_ranks(folder, strategies):
    options = {'model_wrapper_cfg': CPU_MODEL_WRAPPER, **NORM_NECK, 'model.head.in_channels': 8}
    cfg = make(folder, strategies, options=options)
    cfg.launcher = 'pytorch'
    logging.disable(logging.INFO)
    runner = train(cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, RecordLossHook))
    state = {n: v.numpy() for n, v in runner.model.module.head.state_dict().items()}
    return hook.losses, hook.images, state


def test_two_processes_share_the_work_and_train_as_without_a_cache(tmp_path):
    plain = run_distributed(_on_ranks, str(tmp_path / 'plain'), PLAIN)
    cached = run_distributed(_on_ranks, str(tmp_path / 'cached'), CACHED)
    for (losses, images, state), (expected, same, weights) in zip(cached, plain):
        assert losses == pytest.approx(expected, rel=1e-5) and images == same
        for name, value in weights.items():
            torch.testing.assert_close(torch.tensor(state[name]), torch.tensor(value))
    assert cached[0][1] != cached[1][1]
    store = FeatureStore(*caches(tmp_path / 'cached' / 'feature_cache'))
    assert len(store) == 12 and store.leaves[0].abs().sum(1).min() > 0
