"""The comparison of recommended and best rungs counts what the ladders' results say."""

import json

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
