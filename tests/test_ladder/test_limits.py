import json

import pytest

from tests.test_ladder.conftest import RUNGS, run_tool, write_tiny
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.limits import Limits
from tl_plugin.ladder.run_records import RunResult
from tl_plugin.ladder.selection import read_rungs, select_rungs
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.files import write_json


@pytest.fixture
def jobs(tmp_path):
    """Two rungs whose results are written by hand: 60 and 85 on the target, 99 and 90 on source."""
    cfg = load_config(write_tiny(tmp_path))
    rungs, _ = select_rungs(read_rungs(cfg.ladder), ['fine_tune', 'dann'], cfg.ladder)
    jobs = plan(cfg, rungs, [0], tmp_path / 'work')
    for job, source, target in zip(jobs, (99.0, 90.0), (60.0, 85.0)):
        job.folder.mkdir(parents=True)
        result = RunResult(
            key=job.key,
            accuracy=dict(source=source, target=target),
            seconds=100.0,
            validation={'source/accuracy/top1': source, 'target/accuracy/top1': target},
        )
        write_json(job.folder / 'result.json', result.to_json())
    return jobs


@pytest.mark.parametrize(
    ('limits', 'reason'),
    [
        ({}, None),
        (dict(until=80), 'fine_tune reaches the 80% asked for on validation'),
        (dict(until=86), None),
        # What costs too much of the source reaches nothing.
        (dict(until=80, budget_source=5), None),
    ],
)
def test_reasons_to_stop(jobs, limits, reason):
    found = Limits(**limits).enough(jobs)
    assert found is None if reason is None else reason in found


def test_time_is_used_up():
    assert 'have used up the 200 s allowed' in Limits(budget_time=200).used_up(200.4)
    assert Limits(budget_time=200).used_up(199.0) is None
    assert Limits().used_up(1e9) is None


def test_a_closed_gap_ends_the_climb(jobs):
    path = jobs[1].folder / 'result.json'
    result = json.loads(path.read_text())
    result['validation']['target/accuracy/top1'] = 99.5
    path.write_text(json.dumps(result))
    assert Limits().enough(jobs) is None
    assert 'no gap is left' in Limits(early_stop=True).enough(jobs)


@pytest.mark.parametrize(
    'wrong', [dict(until=0), dict(until=101), dict(budget_source=-1), dict(budget_time=-1)]
)
def test_limits_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


def test_the_climb_stops_where_it_is_enough(tmp_path):
    config = write_tiny(tmp_path)
    asked = ('--until', '0.1', '--rungs', *RUNGS)
    code, output = run_tool(config, '--work-dir', tmp_path / 'work', *asked)
    assert code == 0, output
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert [rung['name'] for rung in results['rungs']] == ['source_only']
    assert set(RUNGS[1:]) <= set(results['not_climbed'])
    assert 'Not climbed: dann: source_only reaches the 0.1% asked for' in output
    assert results['recommendation']['rung'] == 'source_only'
    assert 'Take source_only.' in output
