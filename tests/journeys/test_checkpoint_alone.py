"""A trained checkpoint and a folder of field images, no source image: the ladder to its report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mmpretrain
import pytest
import torch

from tests.journeys.walk import (
    SHAPES,
    THIN_RESNET,
    WITHOUT_WORKERS,
    predict,
    read_json,
    read_list,
    tool,
    write_images,
)
from tests.pages import check_that_it_stands_alone

RUNGS = ['source_only', 'tent', 'shot']


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    write_images(folder / 'field', [0, 1, 2] * 16, seed=1, field=True)
    (folder / 'model.py').write_text(
        THIN_RESNET.replace('in_channels=64', 'in_channels=64, num_classes=3')
    )
    torch.manual_seed(0)
    model = mmpretrain.get_model(str(folder / 'model.py'), device='cpu')
    meta = dict(dataset_meta=dict(classes=SHAPES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    said = tool(
        'ladder.py',
        '--checkpoint',
        'model.pth',
        '--config',
        'model.py',
        '--target',
        'field',
        '--work-dir',
        'climbed',
        '--corruptions',
        'blur',
        '--rungs',
        *RUNGS[1:],
        '--cfg-options',
        'ladder.rungs.shot.options.train_cfg.max_epochs=1',
        *WITHOUT_WORKERS,
        cwd=folder,
    )
    results = read_json(folder / 'climbed' / 'results.json')
    rungs = {rung['name']: rung for rung in results['rungs']}
    return SimpleNamespace(folder=folder, said=said, results=results, rungs=rungs)


def test_what_is_not_known_is_none(walked):
    assert list(walked.rungs) == RUNGS and walked.results['failures'] == []
    for rung in walked.rungs.values():
        source, target = rung['domains']['source'], rung['domains']['target']
        assert source['accuracy'] is source['test_images'] is target['accuracy'] is None
        assert rung['kept_layers'] is None
        assert not any(name.startswith('source/') for name in rung['validation'])
        # Too few images to expect something of.
        assert target['expected_accuracy'] is None and 'too few' in target['no_expected_accuracy']
    assert walked.results['recommendation']['measure'] == 'target/label_free/vote'
    assert 'not measured' in walked.said and 'no calibration lies beside' in walked.said
    page = check_that_it_stands_alone((walked.folder / 'climbed' / 'report.html').read_text())
    assert 'corruptions cost on the target is not measured' in walked.said
    assert 'Traceback' not in walked.said
    assert 'no source images' in page.text and ('h3', 'Source') not in page.landmarks


def test_predictions_are_those_of_the_checkpoints_as_mmpretrain_reads_them(walked):
    images = list(read_list(walked.folder / 'climbed/lists/target_test_images.txt', labelled=False))
    paths = {name: walked.folder / rung['checkpoint'] for name, rung in walked.rungs.items()}
    for name, path in {**paths, 'source_only': walked.folder / 'model.pth'}.items():
        found = predict(walked.folder / 'model.py', path, images)
        told = read_json(walked.folder / 'climbed' / name / 'seed_0' / 'predictions.json')['target']
        assert told['predicted'] == [one['pred_label'] for one in found]
        assert told['confidence'] == pytest.approx([one['pred_score'] for one in found], abs=1e-3)


def test_each_rung_changes_what_it_says(walked):
    weights = {
        name: torch.load(Path(walked.folder, path), weights_only=True)['state_dict']
        for name, path in {
            'before': 'model.pth',
            **{name: rung['checkpoint'] for name, rung in walked.rungs.items()},
        }.items()
    }

    def changed(name):
        before, after = weights['before'], weights[name]
        return {key for key in before if not torch.equal(before[key], after[key])}

    assert changed('source_only') == set()
    norms = {key.rpartition('.')[0] for key in weights['before'] if key.endswith('running_mean')}
    assert {key.rpartition('.')[0] for key in changed('tent')} == norms
    shot = {key for key in changed('shot') if not key.endswith('num_batches_tracked')}
    assert shot and not any(key.startswith('head.') for key in shot)
