"""What mmpretrain's publish_model.py leaves of a checkpoint names no image and no label."""

from __future__ import annotations

import copy
import runpy
from argparse import Namespace
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config

from tests.journeys.walk import SHAPES, write_class_folders
from tl_plugin.analysis.features import build_model
from tl_plugin.engine.low_rank import adapter_state
from tl_plugin.launch.runs import build_runner, prepare_test
from tl_plugin.reliability.checkpoints import config_without_images, newest_whole_checkpoint
from tl_plugin.strategies import apply_strategies

PUBLISH = Path(mmpretrain.__file__).parent / '.mim/tools/model_converters/publish_model.py'
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
#: A number of target images that no layer has as its width.
TARGET_IMAGES = 19


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 8), seed=0)
    write_class_folders(folder / 'target', dict(zip(SHAPES, (7, 6, 6))), seed=1, field=True)
    return folder


def config(images: Path, work_dir: Path, strategies: list[str]) -> Config:
    def loader(domain: str, **dataset) -> dict:
        dataset.update(type='CustomDataset', data_root=str(images / domain), pipeline=PIPELINE)
        return dict(
            batch_size=8,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        )

    target = dict(dataset=dict(data_root=str(images / 'target')))
    cfg = apply_strategies(
        Config(
            dict(
                default_scope='mmpretrain',
                custom_imports=dict(imports=['tl_plugin']),
                work_dir=str(work_dir),
                log_level='WARNING',
                model=dict(
                    type='AdaptationClassifier',
                    backbone=dict(type='PooledTimmBackbone', model_name='test_resnet'),
                    head=dict(type='LinearClsHead', num_classes=3),
                ),
                data_preprocessor=dict(num_classes=3, mean=[127.5] * 3, std=[127.5] * 3),
                train_dataloader=loader('source'),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
                test_dataloader=loader('source'),
                test_cfg=dict(type='DomainTestLoop', dataloaders=dict(target=target)),
                test_evaluator=dict(type='Accuracy'),
            ),
            format_python_code=False,
        ),
        strategies,
    )
    if 'shot' in strategies:
        named = dict(metainfo=dict(classes=SHAPES))
        cfg.train_dataloader = loader('target', with_label=False, **named)
    elif cfg.train_cfg.get('type'):
        cfg.train_cfg.target_dataloader = loader('target')
    return cfg


def published(checkpoint: Path, no_ema: bool = False) -> Path:
    publish = runpy.run_path(str(PUBLISH))['process_checkpoint']
    options = Namespace(dataset_type=None, no_ema=no_ema)
    for before in checkpoint.parent.glob('published_*.pth'):
        before.unlink()
    publish(str(checkpoint), str(checkpoint.with_name('published.pth')), options)
    (found,) = checkpoint.parent.glob('published_*.pth')
    return found


def check(path: Path) -> None:
    """A file holds weights, names of classes and a config, and nothing of single images."""
    assert b'.png' not in path.read_bytes()
    content = torch.load(path, weights_only=True)
    assert set(content) == {'meta', 'state_dict'}
    assert list(content['meta']['dataset_meta']['classes']) == list(SHAPES)
    for name, value in content['state_dict'].items():
        assert TARGET_IMAGES not in value.shape, name
        assert value.is_floating_point() or value.numel() == 1, name


@pytest.mark.parametrize('strategy', ['frozen_alignment', 'lora', 'shot', 'pseudo_label'])
def test_strategies_leave_nothing_of_the_target(images, tmp_path, strategy):
    strategies = {'pseudo_label': ['pseudo_label', 'mean_teacher']}.get(strategy, [strategy])
    cfg = config(images, tmp_path, strategies)
    if strategy == 'shot':
        cfg.load_from = start(cfg, tmp_path)
    build_runner(cfg).train()
    check(published(tmp_path / 'epoch_1.pth'))
    if strategy == 'lora':
        found = published(tmp_path / 'adapters.pth')
        check(found)
        # Whole networks alone are looked for beside it, and what was published is what trained.
        assert newest_whole_checkpoint(tmp_path, resumable=False).name != 'adapters.pth'
        adapters = torch.load(tmp_path / 'adapters.pth', weights_only=True)['state_dict']
        cfg.custom_hooks[1].adapters = str(found)
        cfg.optim_wrapper.optimizer.lr = 0.0
        runner = build_runner(cfg)
        runner.train()
        torch.testing.assert_close(adapter_state(runner.model), adapters, rtol=0, atol=0)


def test_neither_averages_nor_the_best_tell_what_a_run_remembers(images, tmp_path):
    """Pseudo-labels, predictions and weights by image, corrections, and state to resume from."""
    cfg = config(images, tmp_path, ['self_training', 'early_learning', 'weighted_labels'])
    files = sorted((images / 'source').rglob('*.png'))
    rows = [f'{path},{path.parent.name},0.{5 + number % 4}' for number, path in enumerate(files)]
    (tmp_path / 'labels.csv').write_text('\n'.join(['file,given,right', *rows]))
    cfg.custom_hooks[-1].file = str(tmp_path / 'labels.csv')
    changes = [[str(files[0]), SHAPES[1]]]
    source = cfg.train_dataloader
    source.dataset = dict(type='CorrectedLabels', dataset=source.dataset, changes=changes)
    cfg.custom_hooks += [dict(type='EMAHook', momentum=0.5), dict(type='ExactResumeHook')]
    cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator = (
        cfg.test_dataloader,
        cfg.test_cfg,
        cfg.test_evaluator,
    )
    cfg.val_cfg = dict(cfg.test_cfg, type='DomainValLoop')
    best = dict(save_best='source/accuracy/top1', published_keys=['meta', 'state_dict'])
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, **best))
    build_runner(cfg).train()
    (chosen,) = tmp_path.glob('best_*_1.pth')
    states = []
    for path, no_ema in ((tmp_path / 'epoch_1.pth', False), (tmp_path / 'epoch_1.pth', True)):
        assert {'hook_msgs', 'ema_state_dict'} <= set(torch.load(path, weights_only=True))
        found = published(path, no_ema)
        check(found)
        states.append(torch.load(found, weights_only=True)['state_dict'])
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(value, states[1][name]) for name, value in states[0].items())
    check(published(chosen))
    by_mmengine = [path for path in tmp_path.glob('*-*.pth') if 'published_' not in path.name]
    assert len(by_mmengine) == 2
    for path in by_mmengine:
        check(path)


def start(cfg: Config, folder: Path) -> str:
    """Weights to begin with, as a file."""
    path = folder / 'start.pth'
    torch.save(dict(state_dict=build_model(cfg, weights=False).state_dict()), path)
    return str(path)


@pytest.mark.parametrize('strategy', ['tent', 'sar'])
def test_a_model_that_adapted_in_a_test_holds_weights_alone(images, tmp_path, strategy):
    cfg = config(images, tmp_path, [strategy])
    cfg.custom_hooks[-1].save = True
    build_runner(prepare_test(cfg, start(cfg, tmp_path))).test()
    check(published(tmp_path / 'adapted.pth'))


def test_any_list_of_images_leaves_a_config():
    """Whatever a data set of someone's own calls it."""
    rows = [dict(img_path='a/1.JPG', gt_label=2)]
    kept = dict(
        dataset=dict(type='Own', ann_file='meta/train.txt', indices=[3, 5], classes=['a', 'b.c']),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PasteLogo', file='logo.png')],
        size=(4, 5),
    )
    cfg = Config(copy.deepcopy(kept))
    assert config_without_images(cfg) is cfg
    cfg.dataset.update(items=rows, pairs=[('1.png', 2)], names=('x/2.tiff',), of={'b.webp': 'dog'})
    found = config_without_images(cfg)
    empty = dict(items=[], pairs=[], names=(), of={})
    assert found.to_dict() == {**kept, 'dataset': {**kept['dataset'], **empty}}
    assert cfg.dataset['items'][0].img_path == 'a/1.JPG'


def test_lists_of_images_in_a_config_are_not_published(images, tmp_path):
    cfg = config(images, tmp_path, ['mcc'])
    named = sorted(path.relative_to(images) for path in (images / 'target').rglob('*.png'))
    target = cfg.train_cfg.target_dataloader
    changes = [[str(images / named[0]), SHAPES[1]]]
    target.dataset = dict(type='CorrectedLabels', dataset=target.dataset, changes=changes)
    listed = ['/'.join(path.parts[1:]) for path in named[1:3]]
    cfg.data_preprocessor.labelled_target = listed
    build_runner(cfg).train()
    found = published(tmp_path / 'epoch_1.pth')
    check(found)
    # What is left builds the model, and the folder of the run keeps the record.
    Config.fromstring(torch.load(found)['meta']['cfg'], '.py')
    record = next(tmp_path.glob('*.py')).read_text()
    assert listed[0] in record and str(named[0]) in record
