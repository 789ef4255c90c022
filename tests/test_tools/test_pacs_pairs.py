"""The table over pairs compares the seeds that both sides have."""

import pytest

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
        ('ours', second): {0: 80.0},
        ('cdan', second): {0: 88.0},
        ('dann', 'photo -> art_painting'): {0: 50.0},
    }
    rows = lines(found)
    assert [(row['ours'], row['plain']) for row in rows] == [
        (65.0, 41.0),
        (80.0, 88.0),
        (72.5, 64.5),
    ]
    assert 'seeds [0, 1]), against TLlib dann, best of dann, mcc' in rows[0]['what']
    assert rows[2]['what'] == 'mean over 2 of 6 pairs'
    assert lines({('ours', first): {0: 70.0}}) == []


def test_what_was_looked_at_is_said(lines):
    pair = 'photo -> art_painting'
    (row,) = lines({('ours', pair): {0: 70.0}, ('mcc', pair): {0: 50.0}})
    assert row['what'].endswith('looked at while ours was written')
