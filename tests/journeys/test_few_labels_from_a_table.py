"""Few target labels from a CSV, for a target of which some images have labels anyway."""

from __future__ import annotations

import csv
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from tests.journeys.walk import (
    SHAPES,
    THIN_RESNET,
    WITHOUT_WORKERS,
    percent,
    predict,
    read_json,
    read_list,
    run,
    share_right,
    tool,
    write_class_folders,
    write_images,
)

RUNGS = ['source_only', 'feature_extraction', 'joint_training']
LISTED = 18


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    """A folder of class folders and loose images; the table lists some of the loose ones."""
    folder = tmp_path_factory.mktemp('user')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 20), seed=0)
    write_class_folders(folder / 'field', dict.fromkeys(SHAPES, 8), seed=1, field=True)
    kinds = [0, 1, 2] * 12
    loose = write_images(folder / 'field', kinds, seed=2, field=True)
    listed = {path: SHAPES[kind] for path, kind in zip(loose[:LISTED], kinds)}
    rows = [f'field/{path.name},{name}' for path, name in listed.items()]
    (folder / 'few.csv').write_text('\n'.join(['image,label', *rows]) + '\n')
    (folder / 'model.py').write_text(THIN_RESNET)
    said = tool(
        'ladder.py',
        '--source',
        'source',
        '--target',
        'field',
        '--target-labels',
        'few.csv',
        '--backbone',
        'model.py',
        '--image-size',
        32,
        '--work-dir',
        'climbed',
        '--rungs',
        *RUNGS[1:],
        '--corruptions',
        'jpeg',
        '--cfg-options',
        'train_cfg.max_epochs=4',
        'train_cfg.val_interval=4',
        *WITHOUT_WORKERS,
        cwd=folder,
    )
    results = read_json(folder / 'climbed' / 'results.json')
    lists = {
        path.stem: read_list(path, labelled=path.stem != 'target_train')
        for path in (folder / 'climbed' / 'lists').glob('*.txt')
    }
    return SimpleNamespace(
        folder=folder,
        said=said,
        listed=listed,
        loose=set(loose),
        results=results,
        rungs={rung['name']: rung for rung in results['rungs']},
        lists=lists,
    )


def list_files(config: Config) -> set[str]:
    """Names of the lists that a config's labelled training images come from."""
    dataset = config.train_dataloader.dataset
    parts = dataset.datasets if 'datasets' in dataset else [dataset]
    assert all(part.with_label for part in parts)
    return {Path(part.ann_file).stem for part in parts}


def test_labels_of_the_table_alone_are_trained_on(walked):
    few = walked.lists['target_few']
    assert 0 < len(few) < LISTED  # the others serve to measure
    assert few.items() <= {path: SHAPES.index(n) for path, n in walked.listed.items()}.items()
    assert few.keys() <= walked.lists['target_train'].keys()
    trained_on = {
        name: list_files(Config.fromfile(walked.folder / rung['config']))
        for name, rung in walked.rungs.items()
    }
    assert trained_on == dict(
        source_only={'source_train'},
        feature_extraction={'target_few'},
        joint_training={'source_train', 'target_few'},
    )


def test_the_splits_share_no_image_and_hold_all(walked):
    splits = [walked.lists[f'target_{name}'] for name in ('train', 'val', 'test')]
    images = [path for split in splits for path in split]
    assert len(images) == len(set(images)) == 24 + len(walked.loose)
    for split in splits[1:]:
        for path, label in split.items():
            known = walked.listed.get(path)
            if path not in walked.loose:
                known = path.parent.name
            assert label == (-1 if known is None else SHAPES.index(known)), path


def test_target_accuracy_is_that_of_the_labelled_test_images(walked):
    test = walked.lists['target_test']
    labelled = [(path, label) for path, label in test.items() if label >= 0]
    assert 0 < len(labelled) < len(test)
    found = set()
    for rung in walked.rungs.values():
        said = predict(walked.folder / rung['config'], walked.folder / rung['checkpoint'], test)
        predicted = dict(zip(test, (one['pred_label'] for one in said)))
        right = [predicted[path] == label for path, label in labelled]
        assert rung['domains']['target']['accuracy'] == pytest.approx(percent(right), abs=0.01)
        assert rung['domains']['target']['images'] == len(labelled)
        assert rung['domains']['target']['test_images'] == len(test)
        confident = percent([one['pred_score'] >= 0.9 for one in said])
        assert rung['domains']['target']['confident'] == pytest.approx(confident, abs=0.01)
        found.update(predicted.values())
    assert found == {0, 1, 2}  # otherwise little was compared


def test_source_accuracy_and_change_are_those_of_the_checkpoints(walked):
    test = walked.lists['source_test']
    for rung in walked.rungs.values():
        said = predict(walked.folder / rung['config'], walked.folder / rung['checkpoint'], test)
        expected = share_right(said, test.values())
        assert rung['domains']['source']['accuracy'] == pytest.approx(expected, abs=0.01)
        before = walked.rungs['source_only']
        for domain in ('source', 'target'):
            change = rung['domains'][domain]['accuracy'] - before['domains'][domain]['accuracy']
            assert rung['domains'][domain]['change'] == pytest.approx(change, abs=0.011)


def test_the_choice_is_by_accuracy_and_says_over_how_many(walked):
    assert list(walked.rungs) == RUNGS and walked.results['failures'] == []
    assert walked.results['recommendation']['measure'] == 'target/accuracy/top1'
    for split in ('val', 'test'):
        labels = walked.lists[f'target_{split}'].values()
        words = dict(val='validation').get(split, split)
        note = f'{sum(label >= 0 for label in labels)} of the {len(labels)} {words} images'
        assert any(note in said for said in walked.results['notes']), note
        assert note in ' '.join(walked.said.split())


def test_report_and_card_show_what_a_corruption_costs_the_recommended_rung(walked):
    name = walked.results['recommendation']['rung']
    path = (walked.folder / walked.rungs[name]['checkpoint']).with_suffix('.corruptions.json')
    curves = read_json(path)['domains']['target']
    assert len(curves['corruptions']['jpeg']) == 5
    card = (walked.folder / 'climbed' / 'card.md').read_text()
    assert f'| jpeg | {" | ".join(f"{v:.1f}" for v in curves["corruptions"]["jpeg"])} |' in card
    report = (walked.folder / 'climbed' / 'report.html').read_text()
    assert f'mean error under 1 corruption {curves["mean_error"]:.1f}%' in report
    # The predictions of the ladder's own test are still there.
    recorded = read_json(path.with_name('predictions.json'))['target']
    with path.with_name('predictions.target.pkl').open('rb') as file:
        written = [int(one['pred_label']) for one in pickle.load(file)]
    assert written == recorded['predicted']


ALONE = """
import runpy, sys
for name in ('tl_plugin', 'mmpretrain', 'mmengine', 'mmcv', 'cv2', 'torch', 'torchvision', 'timm'):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def test_the_recommended_rung_labels_the_test_images_without_this_package(walked):
    pytest.importorskip('onnxruntime')
    rung = walked.rungs[walked.results['recommendation']['rung']]
    given = [walked.folder / rung['config'], walked.folder / rung['checkpoint']]
    said = tool('export.py', *given, '--out', 'ship/model.onnx', '--card', cwd=walked.folder)
    assert 'Written: ship/model.onnx, ship/model_predict.py, ship/model.md' in said
    card = (walked.folder / 'ship' / 'model.md').read_text()
    assert f'value: {rung["domains"]["source"]["accuracy"]}' in card
    test = walked.lists['target_test']
    program = walked.folder / 'ship' / 'model_predict.py'
    run(sys.executable, '-I', '-c', ALONE, program, *test, '--top-k', 1, cwd=walked.folder)
    with (walked.folder / 'predictions.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    predicted = [SHAPES.index(row['prediction']) for row in rows]
    assert [Path(row['image']) for row in rows] == list(test)
    # What the ladder wrote of each image, and the accuracy that it reports.
    recorded = read_json(given[0].with_name('predictions.json'))['target']
    assert predicted == recorded['predicted']
    confidences = [float(row['confidence']) for row in rows]
    assert confidences == pytest.approx(recorded['confidence'], abs=1e-4)
    right = [found == label for found, label in zip(predicted, test.values()) if label >= 0]
    assert percent(right) == pytest.approx(rung['domains']['target']['accuracy'], abs=0.01)
