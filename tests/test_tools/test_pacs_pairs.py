"""The table over pairs compares the seeds that both sides have."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from tests.test_tools.test_benchmarks import BENCHMARKS


@pytest.fixture
def lines(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pacs_pairs

    return pacs_pairs.lines


def test_the_best_of_theirs_on_shared_seeds(lines):
    first, second = 'photo -> cartoon', 'cartoon -> photo'
    found = {
        ('ours', first): {0: 70.0, 1: 60.0, 2: 10.0},
        ('dann', first): {0: 40.0, 1: 42.0},
        ('mcc', first): {0: 50.0, 1: 30.0, 5: 99.0},
        ('cdan', first): {1: 40.5},
        ('ours', second): {0: 80.0},
        ('cdan', second): {0: 88.0},
        ('dann', 'photo -> art_painting'): {0: 50.0},
    }
    rows = lines(found)[:3]
    assert [(row['ours'], row['plain']) for row in rows] == [
        (65.0, 41.0),
        (80.0, 88.0),
        (72.5, 64.5),
    ]
    what = 'seeds [0, 1], against TLlib dann, best of mcc (of 2), dann (of 2), cdan (of 1) seeds'
    assert rows[0]['what'] == f'{first}, {what}'
    assert rows[1]['what'].endswith('best of cdan (of 1) seeds (mcc, dann not measured yet)')
    assert rows[2]['what'] == 'mean over 2 of 6 pairs'
    alone = {row['what']: row['ours'] for row in lines({('ours', first): {0: 70.0}})}
    assert len(alone) == 6 and alone[f'{first}: TLlib not measured yet'] == 70.0
    assert alone[f'{second}: ours not measured yet'] is None


def test_a_run_that_is_measured_is_kept_and_the_others_go_on(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import pacs_pairs

    kept = tmp_path / 'tllib.json'
    run = dict(method='mcc', task='photo -> cartoon', seed=0, target=40.0)
    kept.write_text(json.dumps(dict(runs=[run])))
    metafile = dict(
        Models=[
            dict(
                Name='frozen_alignment_photo_to_cartoon',
                Runs=[dict(seed=0, target=60.0)],
                Metadata=dict(Task='photo -> cartoon'),
            )
        ]
    )
    (tmp_path / 'metafile.yml').write_text(yaml.safe_dump(metafile))
    asked = []

    def run(command, env, **_):
        rest = [Path(command[1]).stem, *command[2:]]
        asked.append((env['PACS_SOURCE'], env['PACS_TARGET'], *rest))

    monkeypatch.setattr(pacs_pairs, 'TLLIB', kept)
    monkeypatch.setattr(pacs_pairs, 'PACS', tmp_path)
    monkeypatch.setattr(pacs_pairs.subprocess, 'run', run)
    pacs_pairs.measure(Namespace(ours=['frozen_alignment'], tllib='T', seeds=[0, 1]))
    ours = [one for one in asked if one[2] == 'measure']
    assert {one[:2] for one in ours} == {*pacs_pairs.PAIRS} - {('photo', 'cartoon')}
    theirs = [one[:4] + (one[-1],) for one in asked if one[2] == 'tllib_accuracy']
    assert ('photo', 'cartoon', 'tllib_accuracy', 'mcc', '0') not in theirs
    assert (
        len(theirs) == 6 * 3 * 2 - 1 and theirs[0][3] == 'mcc' and theirs[-1][3:] == ('cdan', '1')
    )
