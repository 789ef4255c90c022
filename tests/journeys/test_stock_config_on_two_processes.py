"""A stock config adapted on two processes, resumed, published, and used by mmpretrain alone."""

from __future__ import annotations

import pickle
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from mmpretrain import get_model

from tests.journeys.walk import (
    ROOT,
    SHAPES,
    percent,
    read_json,
    run,
    stock_tool,
    tool,
    write_class_folders,
    write_images,
)

#: What a user writes to put a stock config onto folders of images.
CONFIG = """
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
crop = [dict(type='RandomCrop', crop_size=32, padding=4), dict(type='RandomFlip', prob=0.5)]
load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')
train_set = dict(
    _delete_=True, type='CustomDataset', data_root='source', pipeline=[load, *crop, pack])
test_set = dict(
    _delete_=True, type='CustomDataset', data_root='target/labelled', pipeline=[load, pack])
train_dataloader = dict(dataset=train_set, num_workers=0, batch_size=8)
val_dataloader = dict(dataset=test_set, num_workers=0, batch_size=8)
test_dataloader = val_dataloader
data_preprocessor = dict(to_rgb=True)
"""
OPTIONS = [
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.head.in_channels=64',
    'model.head.num_classes=3',
    'data_preprocessor.num_classes=3',
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'optim_wrapper.optimizer.lr=0.05',
    'randomness.seed=0',
    'train_cfg.target_dataloader.dataset.data_root=target/flat',
    'train_cfg.target_dataloader.dataset.with_label=False',
]
#: What a user of the published model runs, with mmpretrain alone: images -> a JSON of classes.
INFERENCE = """
import json, sys
from mmpretrain import ImageClassificationInferencer, get_model
config, checkpoint, out, *images = sys.argv[1:]
inferencer = ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu')
model = get_model(config, pretrained=checkpoint, device='cpu')
json.dump(dict(
    inferencer=[found['pred_class'] for found in inferencer(images, batch_size=8)],
    get_model=[one['pred_scores'].tolist() for one in ImageClassificationInferencer(model)(images)],
), open(out, 'w'))
"""
#: Unequal, so that no mistake in the order of the classes goes unseen.
LABELLED = dict(zip(SHAPES, (9, 7, 5)))


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 16), seed=0)
    write_class_folders(folder / 'target' / 'labelled', LABELLED, seed=1, field=True)
    write_images(folder / 'target' / 'flat', [0, 1, 2] * 10, seed=2, field=True)
    (folder / 'shapes.py').write_text(CONFIG)
    train = ['bash', ROOT / 'tools' / 'dist_train.sh', 'shapes.py', 2, '--strategy', 'dann']
    run(*train, '--work-dir', 'whole', '--cfg-options', *OPTIONS, cwd=folder)
    # What lies in the folder of a run that was stopped after its first epoch.
    (folder / 'stopped').mkdir()
    shutil.copy(folder / 'whole' / 'epoch_1.pth', folder / 'stopped')
    said = run(*train, '--work-dir', 'stopped', '--resume', '--cfg-options', *OPTIONS, cwd=folder)

    (folder / 'published').mkdir()
    stock_tool(
        'model_converters/publish_model.py',
        'stopped/epoch_2.pth',
        'published/shapes.pth',
        cwd=folder,
    )
    (published,) = (folder / 'published').glob('shapes_*.pth')
    return SimpleNamespace(
        folder=folder, said=said, config=folder / 'stopped' / 'shapes.py', published=published
    )


@pytest.fixture(scope='module')
def tested(walked):
    """What this package's own test says: accuracy, and the prediction of each image by its path."""
    folder = walked.folder
    tool(
        'test.py',
        walked.config,
        'stopped/epoch_2.pth',
        '--work-dir',
        'tested',
        '--out',
        'predictions.pkl',
        cwd=folder,
    )
    with (folder / 'predictions.pkl').open('rb') as file:
        samples = pickle.load(file)
    (metrics,) = (folder / 'tested').glob('*/*.json')
    return SimpleNamespace(
        accuracy=read_json(metrics)['accuracy/top1'],
        predicted=[int(sample['pred_label']) for sample in samples],
        truth=[int(sample['gt_label']) for sample in samples],
        scores=torch.stack([sample['pred_score'] for sample in samples]),
    )


def test_a_stopped_run_goes_on_to_the_same_weights(walked):
    assert 'Resuming from' in walked.said and 'epoch_1.pth' in walked.said
    assert 'accuracy/top1' in walked.said
    states = [
        torch.load(walked.folder / run / 'epoch_2.pth', weights_only=True)['state_dict']
        for run in ('whole', 'stopped')
    ]
    assert states[0].keys() == states[1].keys()
    assert any(name.startswith('alignments.dann') for name in states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    first = torch.load(walked.folder / 'whole' / 'epoch_1.pth', weights_only=True)['state_dict']
    assert not torch.equal(first['head.fc.weight'], states[0]['head.fc.weight'])
    # 48 images on 2 processes, 8 a batch.
    meta = torch.load(walked.folder / 'stopped' / 'epoch_2.pth', weights_only=True)['meta']
    assert meta['iter'] == 2 * 3


def test_accuracy_is_the_share_of_right_predictions(tested):
    kinds = [kind for kind, count in enumerate(LABELLED.values()) for _ in range(count)]
    assert tested.truth == kinds
    right = [ours == true for ours, true in zip(tested.predicted, tested.truth)]
    assert tested.accuracy == pytest.approx(percent(right), abs=1e-3)
    assert len(set(tested.predicted)) > 1  # otherwise what follows would compare little


def test_the_published_file_holds_weights_and_nothing_of_the_run(walked):
    published = torch.load(walked.published, weights_only=True)
    assert set(published) == {'meta', 'state_dict'}
    trained = torch.load(walked.folder / 'stopped' / 'epoch_2.pth', weights_only=True)
    assert 'optimizer' in trained
    assert published['state_dict'].keys() == trained['state_dict'].keys()
    assert list(published['meta']['dataset_meta']['classes']) == list(SHAPES)
    # Each tensor has its place in the model, so that none holds labels; no image has its name here.
    model = get_model(str(walked.config))
    assert published['state_dict'].keys() == model.state_dict().keys()
    assert b'000.png' not in walked.published.read_bytes()


def test_mmpretrain_alone_says_what_our_test_said(walked, tested):
    images = sorted((walked.folder / 'target' / 'labelled').glob('*/*.png'))
    (walked.folder / 'infer.py').write_text(INFERENCE)
    run(
        sys.executable,
        'infer.py',
        walked.config,
        walked.published,
        'said.json',
        *images,
        cwd=walked.folder,
    )
    said = read_json(walked.folder / 'said.json')
    names = [SHAPES[label] for label in tested.predicted]
    assert said['inferencer'] == names
    scores = torch.tensor(said['get_model'])
    torch.testing.assert_close(scores, tested.scores, rtol=1e-4, atol=1e-5)


def test_mmpretrains_own_test_gives_the_accuracy(walked, tested):
    stock_tool(
        'test.py',
        walked.config,
        walked.published,
        '--work-dir',
        'stock-test',
        '--out',
        'stock.json',
        '--out-item',
        'metrics',
        cwd=walked.folder,
    )
    metrics = read_json(walked.folder / 'stock.json')
    assert metrics['accuracy/top1'] == pytest.approx(tested.accuracy, abs=1e-4)


def test_mmpretrains_confusion_matrix_counts_the_same(walked, tested):
    stock_tool(
        'analysis_tools/confusion_matrix.py',
        walked.config,
        walked.published,
        '--out',
        'matrix.pkl',
        cwd=walked.folder,
    )
    with (walked.folder / 'matrix.pkl').open('rb') as file:
        matrix = pickle.load(file)
    expected = torch.zeros(3, 3)
    for true, ours in zip(tested.truth, tested.predicted):
        expected[true, ours] += 1
    assert torch.equal(torch.as_tensor(matrix).float(), expected)
