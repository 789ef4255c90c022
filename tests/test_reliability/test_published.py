"""What mmpretrain's publish_model.py leaves of a checkpoint names no image and no label."""

from __future__ import annotations

import runpy
from argparse import Namespace
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config

from tests.journeys.walk import SHAPES, write_class_folders
from tl_plugin.analysis.features import build_model
from tl_plugin.launch.runs import build_runner, prepare_test
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


def published(checkpoint: Path) -> Path:
    publish = runpy.run_path(str(PUBLISH))['process_checkpoint']
    options = Namespace(dataset_type=None, no_ema=False)
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
