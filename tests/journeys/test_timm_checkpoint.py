"""A checkpoint of timm's own training, onto class folders of unequal size, and then it is gone."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from tests.journeys.walk import (
    ROOT,
    SHAPES,
    WITHOUT_WORKERS,
    predict,
    read_json,
    read_list,
    share_right,
    tool,
    write_class_folders,
)
from tests.pages import Page, numbers

SOURCE = dict(zip(SHAPES, (40, 6, 3)))
TARGET = dict(zip(SHAPES, (9, 12, 7)))
WEIGHTS = 'model_best.pth.tar'


def write_checkpoints(folder: Path) -> dict[str, torch.Tensor]:
    """Write what timm's train.py leaves (it keeps its arguments), and the same as safetensors."""
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    args = argparse.Namespace(model='test_resnet', lr=0.1, mean=None, img_size=None, aa='rand-m9')
    torch.save(
        dict(
            epoch=3,
            arch='test_resnet',
            state_dict=model.state_dict(),
            version=2,
            args=args,
            optimizer=optimizer.state_dict(),
            metric=71.5,
        ),
        folder / WEIGHTS,
    )
    save_file(model.state_dict(), folder / 'model.safetensors')
    return model.state_dict()


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    """Diagnosis, one rung of the ladder and a leaf config, all from the file; then it goes."""
    folder = tmp_path_factory.mktemp('user')
    weights = write_checkpoints(folder)
    write_class_folders(folder / 'source', SOURCE, seed=0)
    write_class_folders(folder / 'target', TARGET, seed=1, field=True)
    data = [
        '--source',
        'source',
        '--target',
        'target',
        '--backbone',
        'timm:test_resnet',
        '--checkpoint',
        WEIGHTS,
        '--image-size',
        32,
    ]
    tool('diagnose.py', *data, '--work-dir', 'diagnosed', cwd=folder)
    tool(
        'ladder.py',
        *data,
        '--work-dir',
        'climbed',
        '--rungs',
        'source_only',
        '--cfg-options',
        'train_cfg.max_epochs=8',
        'optim_wrapper.optimizer.lr=0.1',
        *WITHOUT_WORKERS,
        cwd=folder,
    )
    leaf = ROOT / 'configs' / 'class_folders' / 'timm-efficientnet-lite0_dann.py'
    (folder / 'leaf.py').write_text(f'_base_ = {str(leaf)!r}\n')
    size = 'dataset.pipeline.1.scale=32'
    tool(
        'train.py',
        'leaf.py',
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'model.backbone.model_name=test_resnet',
        'model.backbone.pretrained=False',
        'model.backbone.checkpoint_path=model.safetensors',
        'model.head.num_classes=3',
        'data_preprocessor.num_classes=3',
        'optim_wrapper.optimizer.lr=0',
        'train_dataloader.dataset.data_root=source',
        'train_dataloader.num_workers=0',
        'train_cfg.target_dataloader.dataset.data_root=target',
        f'train_dataloader.{size}',
        cwd=folder,
    )
    (folder / 'elsewhere').mkdir()
    for name in (WEIGHTS, 'model.safetensors'):
        (folder / name).rename(folder / 'elsewhere' / name)

    (rung,) = read_json(folder / 'climbed' / 'results.json')['rungs']
    return SimpleNamespace(
        folder=folder,
        weights=weights,
        rung=rung,
        config=folder / rung['config'],
        checkpoint=folder / rung['checkpoint'],
        lists=folder / 'climbed' / 'lists',
    )


def test_the_diagnosis_counts_each_class(walked):
    findings = read_json(walked.folder / 'diagnosed' / 'findings.json')
    for domain, counts in (('source', SOURCE), ('target', TARGET)):
        assert findings[domain]['classes'] == counts
        assert findings[domain]['images'] == findings[domain]['readable'] == sum(counts.values())
        largest, smallest = max(counts.values()), min(counts.values())
        assert findings[domain]['imbalance'] == pytest.approx(largest / smallest, rel=1e-4)
    assert any('13 times' in repair for repair in findings['advice']['repairs'])
    page = Page((walked.folder / 'diagnosed' / 'report.html').read_text())
    compared = {row[0]: numbers(row[2]) for row in page.tables['Class by class'][1:]}
    assert compared == {name: [SOURCE[name], TARGET[name]] for name in ('circle', 'line')}
    assert 'leaves out square (3)' in page.text  # and an accuracy over the others says so
    assert any('leaves out square' in reason for reason in findings['advice']['reasons'])


def test_each_image_is_in_one_split_with_its_folders_class(walked):
    for domain, counts in (('source', SOURCE), ('target', TARGET)):
        splits = ('train', 'val', 'test')
        found = Counter()
        for split in splits:
            labelled = (domain, split) != ('target', 'train')
            listed = read_list(walked.lists / f'{domain}_{split}.txt', labelled)
            found.update(listed.keys())
            for image, label in listed.items():
                assert label == (SHAPES.index(image.parent.name) if labelled else None)
        assert set(found.values()) == {1}
        assert Counter(image.parent.name for image in found) == counts


def test_training_began_with_the_weights_of_the_file(walked):
    """With a learning rate of zero they are there still, every one of them."""
    state = torch.load(walked.folder / 'work_dirs' / 'leaf' / 'epoch_1.pth')['state_dict']
    names = [name for name, _ in timm.create_model('test_resnet', num_classes=0).named_parameters()]
    assert len(names) > 20
    for name in names:
        assert torch.equal(state[f'backbone.timm_model.{name}'], walked.weights[name]), name


def test_accuracy_is_that_of_the_checkpoint_by_mmpretrain_itself(walked):
    for domain in ('source', 'target'):
        test = read_list(walked.lists / f'{domain}_test.txt')
        assert walked.rung['domains'][domain]['images'] == len(test) > 0
        expected = share_right(predict(walked.config, walked.checkpoint, test), test.values())
        assert walked.rung['domains'][domain]['accuracy'] == pytest.approx(expected, abs=0.01)


def test_test_py_gives_the_same_once_the_file_is_gone(walked):
    assert WEIGHTS in Config.fromfile(walked.config).model.backbone.checkpoint_path
    assert not (walked.folder / WEIGHTS).exists()
    tool(
        'test.py',
        walked.config,
        walked.checkpoint,
        '--work-dir',
        'tested',
        '--out',
        'metrics.json',
        '--out-item',
        'metrics',
        cwd=walked.folder,
    )
    metrics = read_json(walked.folder / 'metrics.json')
    for domain in ('source', 'target'):
        expected = walked.rung['domains'][domain]['accuracy']
        assert metrics[f'{domain}/accuracy/top1'] == pytest.approx(expected, abs=0.01)
