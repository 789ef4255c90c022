"""The comparison of recommended and best rungs counts what the ladders' results say."""

import json

import numpy as np
import pytest

from tests.test_tools.test_benchmarks import run

PAIR, PHOTOS = 'PACS photo -> cartoon', 'photographs -> degraded photographs'
VALIDATION = 'source/accuracy/top1', 'target/accuracy/top1'


def rung(name, target, source, seeds=1, **more):
    return dict(
        name=name,
        domains=dict(
            target=dict(accuracy=target, change=target - 40),
            source=dict(accuracy=source, change=source - 90),
        ),
        seconds=60.0,
        seeds=list(range(seeds)),
        towards=None,
        validation=dict.fromkeys(VALIDATION, [source] * seeds),
        **more,
    )


def write(folder, pair, rungs, recommended, what='ladder'):
    place = folder / ''.join(c if c.isalnum() else '_' for c in pair) / what
    place.mkdir(parents=True)
    results = dict(rungs=rungs, recommendation=dict(rung=recommended), commit='abc')
    (place / 'results.json').write_text(json.dumps(results))


def rows_of(folder):
    out = folder / 'table.json'
    run('recommendations.py', '--table', '--work-dir', str(folder), '--out', str(out))
    return json.loads(out.read_text())


def test_recommended_against_best_and_against_all_labels(tmp_path):
    rungs = [rung('source_only', 40.0, 90), rung('dann', 52.0, 89), rung('fine_tune', 53.5, 85)]
    write(tmp_path, PAIR, rungs, 'dann')
    rungs = [rung('source_only', 60.0, 90, 3), rung('self_training', 76.0, 90.5, 3)]
    write(tmp_path, PHOTOS, rungs, 'self_training')
    write(tmp_path, PHOTOS, [rung('source_only', 80.0, 80, 3)], 'source_only', 'ceiling')
    found = rows_of(tmp_path)
    assert found['within_one_point'] == '1 of 2' and found['minutes'] == 9
    first, second = found['rows']
    assert (first['recommended'], first['best'], first['behind_best']) == ('dann', 'fine_tune', 1.5)
    assert first['source_change'] == -1 and 'recovered' not in first
    assert (second['ceiling'], second['recovered'], second['behind_best']) == (80.0, 0.8, 0.0)
    assert '80% of the gap to all labels' in found['lines'][1]['what']
    assert found['command'].endswith(f'recommendations.py --work-dir {tmp_path}')


def test_interpolation_against_the_model_it_goes_to(tmp_path):
    (tmp_path / 'way').mkdir()
    points = [(0.0, 90.0, 40.0), (0.5, 89.0, 52.6), (0.8, 87.0, 53.2), (1.0, 85.0, 53.0)]
    curve = [dict(alpha=a, source=s, target=t, statistics='own') for a, s, t in points]
    (tmp_path / 'way' / 'interpolation.json').write_text(json.dumps(dict(points=curve)))
    tuned = rung('fine_tune', 53.0, 85.0)
    tuned['validation'] = dict(zip(VALIDATION, ([85.0], [53.0])))
    between = {**rung('interpolation', 53.0, 89.0), 'towards': 'fine_tune'}
    between['folders'] = [str(tmp_path / 'way')]
    write(tmp_path, PAIR, [rung('source_only', 40.0, 90), tuned, between], 'interpolation')
    found = rows_of(tmp_path)
    (row,) = found['rows']
    assert 'fine_tune forgot 5.0 points' in found['lines'][1]['what']
    # 0.5 of the target may be lost: the point at 0.5 counts, with 4 points more on the source.
    assert row['interpolation'] == dict(towards='fine_tune', forgot=5.0, gains=[4.0])


def test_a_pair_that_is_not_known_is_refused():
    with pytest.raises(AssertionError, match='invalid choice'):
        run('recommendations.py', '--pairs', 'cats -> dogs')


def write_whole_rungs(folder, pair, rungs, recommended, labels):
    """A finished ladder without target labels: rung -> classes that it predicts."""
    place = folder / 'whole_rungs' / ''.join(c if c.isalnum() else '_' for c in pair)
    (place / 'ladder' / 'lists').mkdir(parents=True)
    names = [f'/x/target/test/{number:03}.png' for number in range(len(labels))]
    (place / 'ladder/lists/target_test.txt').write_text('\n'.join(names) + '\n')
    known = {f'test/{name[-7:]}': label for name, label in zip(names, labels)}
    (place / 'labels.json').write_text(json.dumps(known))
    told = []
    for name, (predicted, expected) in rungs.items():
        (place / name).mkdir()
        rows = (np.eye(3)[predicted] * 0.7 + 0.1).astype(np.float32)
        found = dict(log_probabilities=np.log(rows), features=rows)
        arrays = {f'{part}.{k}': v for part in ('source', 'target') for k, v in found.items()}
        arrays['target.labels'] = np.full(len(labels), -1)
        arrays |= {'source.labels': np.array(labels), 'test.probabilities': rows}
        np.savez(place / name / 'outputs.npz', **arrays)
        on = dict(expected_accuracy=expected, expected_interval=[expected - 10, expected + 10])
        domains = dict(target=on, source=dict(accuracy=90.0))
        checkpoint = str(place / name / 'model.pth')
        told.append(dict(name=name, folders=[str(place / name)], domains=domains, seconds=5.0))
        told[-1]['checkpoint'] = checkpoint
    (place / recommended / 'model.calibration.json').write_text('{"temperature": 2.0}')
    advice = dict(rung=recommended, measure='target/label_free/vote', ahead=0.95)
    results = dict(rungs=told, recommendation=advice, left_out={}, failures=[], commit='abc')
    (place / 'ladder' / 'results.json').write_text(json.dumps(results))


def test_whole_rungs_are_judged_by_labels_that_no_rung_saw(tmp_path):
    labels = np.arange(60) % 3
    wrong = {n: np.where(np.arange(60) < n, (labels + 1) % 3, labels) for n in (6, 12, 30)}
    rungs = dict(source_only=(wrong[12], 90.0), dann=(wrong[6], 85.0), adabn=(wrong[30], 45.0))
    write_whole_rungs(tmp_path, PAIR, rungs, 'source_only', labels.tolist())
    out = tmp_path / 'table.json'
    options = ('--no-target-labels', '--whole-rungs', '--table', '--work-dir', str(tmp_path))
    run('recommendations.py', *options, '--out', str(out))
    found = json.loads(out.read_text())
    (row,) = found['rows']
    assert {name: one['accuracy'] for name, one in row['rungs'].items()} == dict(
        source_only=80.0, dann=90.0, adabn=50.0
    )
    assert found['rungs']['dann']['best'] == 1 and found['rungs']['adabn']['mean_behind'] == 40
    assert found['rungs']['dann']['missed'] == 10 and found['rungs']['source_only']['missed'] == 0
    cooled = np.array([0.8, 0.1, 0.1]) ** 0.5
    assert row['calibration']['calibrated'] == pytest.approx(0.8 - cooled[0] / cooled.sum(), 1e-4)
    told = {line['what']: (line['ours'], line['plain']) for line in found['lines']}
    (chosen,) = [v for what, v in told.items() if what.startswith('recommended, points behind')]
    assert chosen == (10.0, 10.0)
    (expected,) = [v for what, v in told.items() if what.startswith('expected accuracy of 3')]
    assert expected[0] == pytest.approx(20 / 3)
    assert sum('not measured' in what for what in told) == 7


def test_whole_rungs_with_labels_are_judged_by_test_accuracy(tmp_path):
    place = (
        tmp_path / 'labelled_rungs' / ''.join(c if c.isalnum() else '_' for c in PAIR) / 'ladder'
    )
    place.mkdir(parents=True)
    accuracies = dict(source_only=40.0, fine_tune=61.0, joint_training=60.0)
    rungs = [
        dict(
            name=name, seconds=9.0, domains=dict(target=dict(accuracy=on), source=dict(accuracy=90))
        )
        for name, on in accuracies.items()
    ]
    advice = dict(rung='joint_training', measure='target/accuracy/top1', ahead=None)
    results = dict(rungs=rungs, recommendation=advice, left_out={}, failures=[], commit='abc')
    (place / 'results.json').write_text(json.dumps(results))
    out = tmp_path / 'table.json'
    options = ('--whole-rungs', '--table', '--work-dir', str(tmp_path), '--out', str(out))
    run('recommendations.py', *options)
    found = json.loads(out.read_text())
    assert found['rungs']['fine_tune']['best'] == 1 and found['rungs']['source_only']['near'] == 0
    told = {line['what']: (line['ours'], line['plain']) for line in found['lines']}
    (chosen,) = [v for what, v in told.items() if what.startswith('recommended, points behind')]
    assert chosen == (1.0, 21.0)
    assert not any('expected accuracy' in what for what in told)
