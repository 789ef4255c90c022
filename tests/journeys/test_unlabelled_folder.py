"""A folder of field images without a label: diagnosis, ladder, recommended config, train, test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.journeys.walk import (
    SHAPES,
    THIN_RESNET,
    WITHOUT_WORKERS,
    percent,
    predict,
    proposed,
    read_json,
    read_list,
    share_right,
    tool,
    write_class_folders,
    write_images,
)
from tests.pages import Page, check_that_it_stands_alone, numbers

RUNGS = ['source_only', 'adabn', 'dann']


@pytest.fixture(scope='module')
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    write_class_folders(folder / 'source', dict.fromkeys(SHAPES, 20), seed=0)
    write_images(folder / 'field', [0, 1, 2] * 16, seed=1, field=True)
    (folder / 'model.py').write_text(THIN_RESNET)
    tool(
        'diagnose.py',
        '--source',
        'source',
        '--target',
        'field',
        '--backbone',
        'model.py',
        '--image-size',
        32,
        '--work-dir',
        'found',
        cwd=folder,
    )
    findings = read_json(folder / 'found' / 'findings.json')
    (command,) = [c for c in findings['advice']['commands'] if 'ladder.py' in c]
    said = proposed(
        command,
        '--work-dir',
        'climbed',
        '--corruptions',
        'blur',
        '--rungs',
        *RUNGS[1:],
        '--cfg-options',
        'train_cfg.max_epochs=4',
        'train_cfg.val_interval=4',
        *WITHOUT_WORKERS,
        cwd=folder,
    )
    results = read_json(folder / 'climbed' / 'results.json')
    return SimpleNamespace(
        folder=folder,
        findings=findings,
        said=said,
        results=results,
        rungs={rung['name']: rung for rung in results['rungs']},
        page=(folder / 'climbed' / 'report.html').read_text(),
        lists=folder / 'found' / 'lists',
    )


@pytest.fixture(scope='module')
def recounted(walked):
    """What mmpretrain itself predicts with each checkpoint: rung -> domain -> predictions."""
    images = {
        'source': read_list(walked.lists / 'source_test.txt'),
        'target': read_list(walked.lists / 'target_test.txt', labelled=False),
    }
    return {
        name: {
            domain: predict(walked.folder / rung['config'], walked.folder / rung['checkpoint'], own)
            for domain, own in images.items()
        }
        for name, rung in walked.rungs.items()
    }


def test_the_diagnosis_knows_that_there_are_no_labels(walked):
    target = walked.findings['target']
    assert target['images'] == target['readable'] == target['unlabelled'] == 48
    assert target['classes'] == {} and target['imbalance'] is None
    assert walked.findings['classifier']['target_accuracy'] is None


def test_every_rung_has_a_row_and_no_target_accuracy(walked):
    assert list(walked.rungs) == RUNGS and walked.results['failures'] == []
    for rung in walked.rungs.values():
        assert (
            rung['domains']['target']['accuracy'] is None
            and rung['domains']['target']['accuracy_interval'] is None
        )
        assert (
            rung['domains']['target']['change'] is None and rung['domains']['target']['images'] == 0
        )
        assert not any(name.startswith('target/accuracy') for name in rung['validation'])


def test_figures_are_those_of_the_checkpoints(walked, recounted):
    labels = read_list(walked.lists / 'source_test.txt').values()
    before = [one['pred_label'] for one in recounted['source_only']['target']]
    for name, rung in walked.rungs.items():
        source, target = recounted[name]['source'], recounted[name]['target']
        assert rung['domains']['source']['accuracy'] == pytest.approx(
            share_right(source, labels), abs=0.01
        )
        assert rung['domains']['source']['test_images'] == len(source) and rung['domains'][
            'source'
        ]['images'] == len(labels)
        assert rung['domains']['target']['test_images'] == len(target) > 0
        confident = percent([one['pred_score'] >= 0.9 for one in target])
        assert rung['domains']['target']['confident'] == pytest.approx(confident, abs=0.01)
        agreement = percent([one['pred_label'] == own for one, own in zip(target, before)])
        assert rung['domains']['target']['agreement'] == pytest.approx(agreement, abs=0.01)
    assert walked.rungs['source_only']['domains']['target']['agreement'] == 100
    # Not one figure for all, which any mistake would give as well.
    assert len({rung['domains']['target']['agreement'] for rung in walked.rungs.values()}) > 1


def test_table_and_report_say_that_it_is_unknown(walked):
    page = check_that_it_stands_alone(walked.page)
    header, *rows = page.tables['Results']
    assert header[1:5] == ['target score', 'confident %', 'as source_only %', 'source %']
    assert [row[0] for row in rows] == RUNGS
    for row in rows:
        rung = walked.rungs[row[0]]
        shown = [
            rung['domains']['target']['confident'],
            rung['domains']['target']['agreement'],
            rung['domains']['source']['accuracy'],
        ]
        assert [numbers(cell)[0] for cell in row[3:6]] == pytest.approx(shown, abs=0.0501)
    advice = walked.results['recommendation']
    assert ('h2', f'Take {advice["rung"]}, on weak grounds.') in page.landmarks
    assert 'images of the target has a label' in page.text
    assert all(name in walked.said for name in RUNGS)
    assert 'target %' not in walked.said and 'nan' not in walked.said.lower()


def test_corruptions_are_measured_on_the_source_which_has_labels(walked):
    rung = walked.rungs[walked.results['recommendation']['rung']]
    curves = read_json((walked.folder / rung['checkpoint']).with_suffix('.corruptions.json'))
    assert list(curves['domains']) == ['source']
    clean = rung['domains']['source']['accuracy']
    assert curves['domains']['source']['clean'] == pytest.approx(clean, abs=0.01)
    assert len(curves['domains']['source']['corruptions']['blur']) == 5
    (note,) = [one for one in walked.results['notes'] if 'corruptions' in one]
    assert 'on the target is not measured' in note and note in walked.said
    assert 'Traceback' not in walked.said
    assert f'{rung["name"]} on source: accuracy' in walked.said
    assert 'blur' in (walked.folder / 'climbed' / 'card.md').read_text()


def test_the_recommended_rungs_commands_train_and_test_it(walked):
    """What the report tells the user to run: the same accuracy comes out."""
    measure = walked.results['recommendation']['measure']
    rung = walked.rungs[walked.results['recommendation']['rung']]
    scores = {name: each['validation'][measure][0] for name, each in walked.rungs.items()}
    # The best one, or none where that isn't surely ahead of doing nothing.
    assert rung['name'] in (max(scores, key=scores.get), 'source_only')
    train, test = rung['command'].split(' && ')
    assert train in Page(walked.page).text
    before = torch.load(walked.folder / rung['checkpoint'])['state_dict']
    proposed(train, '--work-dir', 'again', cwd=walked.folder)
    after = torch.load(walked.folder / 'again' / Path(rung['checkpoint']).name)['state_dict']
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    proposed(
        test,
        '--work-dir',
        'tested',
        '--out',
        'metrics.json',
        '--out-item',
        'metrics',
        cwd=walked.folder,
    )
    metrics = read_json(walked.folder / 'metrics.json')
    assert metrics['source/accuracy/top1'] == pytest.approx(
        rung['domains']['source']['accuracy'], abs=0.01
    )
    assert not any(name.startswith('target/accuracy') for name in metrics)
    assert metrics['target/label_free/information_maximization'] == pytest.approx(
        rung['domains']['target']['label_free']['information_maximization'], abs=1e-3
    )
