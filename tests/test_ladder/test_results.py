import json
import statistics

import pytest

from tests.test_ladder.conftest import write_tiny
from tl_plugin.evaluation.intervals import accuracy_interval
from tl_plugin.ladder.job import Failure, plan
from tl_plugin.ladder.results import collect, read_results
from tl_plugin.ladder.rungs import read_rungs, select_rungs
from tl_plugin.ladder.table import markdown_table, print_table
from tl_plugin.launch.runs import load_config

ACCURACY = {'source_only': [(98, 50), (97, 54), (99, 49)], 'fine_tune': [(90, 75), (92, 70)]}


@pytest.fixture
def results(tmp_path):
    """Two rungs of three seeds whose results are written by hand; the last one is missing."""
    cfg = load_config(write_tiny(tmp_path))
    rungs, _ = select_rungs(read_rungs(cfg.ladder), list(ACCURACY), cfg.ladder)
    jobs = plan(cfg, rungs, [0, 1, 2], tmp_path / 'work')
    for job in jobs:
        if job.seed >= len(ACCURACY[job.rung.name]):
            continue
        source, target = ACCURACY[job.rung.name][job.seed]
        job.folder.mkdir(parents=True)
        result = dict(
            key=job.key,
            accuracy=dict(source=source, target=target),
            seconds=10.0 + job.seed,
            trainable_parameters=1234,
            parameters=5678,
            epochs=2,
            iterations=8,
            checkpoint='epoch_2.pth',
            images=dict(source=200, target=100),
            kept_layers=dict(
                layers=['stem', 'block'],
                images=dict(source=9, target=9),
                seconds=2.0,
                source=dict(cka=[1.0, 0.5 + 0.1 * job.seed]),
                target=dict(cka=[None, 0.25]),
            ),
            validation={'source/accuracy/top1': source - 1, 'target/accuracy/top1': target + 1},
        )
        (job.folder / 'result.json').write_text(json.dumps(result))
    return collect(jobs, [Failure(jobs[-1], 'ValueError: x')], 'tiny.py')


def test_means_and_spread_over_the_finished_seeds(results):
    for rung in (found.to_json() for found in results.rungs):
        for column, domain in enumerate(('source', 'target')):
            values = [seed[column] for seed in ACCURACY[rung['name']]]
            assert rung[f'{domain}_accuracy'] == pytest.approx(sum(values) / len(values), abs=0.01)
            assert rung[f'{domain}_accuracy_by_seed'] == values
            spread = statistics.pstdev(values) * (len(values) / (len(values) - 1)) ** 0.5
            assert rung[f'{domain}_accuracy_spread'] == pytest.approx(spread, abs=0.01)
    assert [rung.seeds for rung in results.rungs] == [[0, 1, 2], [0, 1]]
    assert results.rungs[1].on('target').change == pytest.approx(72.5 - 51, abs=0.01)
    assert results.rungs[1].validation['target/accuracy/top1'] == [76, 71]
    assert results.recommended.name == 'fine_tune'
    assert results.failures[0].name == 'fine_tune'


def test_intervals_over_seeds_are_students(results):
    # Critical values of Student's t at 97.5% out of a printed table: 4.303 for 2 degrees of
    # freedom, 12.706 for 1.
    for rung, critical in zip(results.rungs, (4.303, 12.706)):
        values = rung.on('target').accuracy_by_seed
        half = critical * statistics.stdev(values) / len(values) ** 0.5
        mean = statistics.fmean(values)
        expected = [max(mean - half, 0), min(mean + half, 100)]
        assert rung.on('target').accuracy_interval == pytest.approx(expected, abs=0.02)
        assert rung.interval_method == 'seeds'


@pytest.mark.parametrize(('right', 'images'), [(95, 100), (100, 100), (0, 30), (61, 450)])
def test_the_interval_of_one_seed_is_wilsons(right, images):
    share, z = right / images, 1.959964
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    root = (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    half = z * root / (1 + z**2 / images)
    found = accuracy_interval([100 * share], images)
    expected = [100 * (middle - half), 100 * (middle + half)]
    assert found == pytest.approx([min(max(end, 0), 100) for end in expected], abs=0.01)


def test_intervals_of_what_is_not_known():
    assert accuracy_interval([70.0], None) is None
    assert accuracy_interval([70.0, 70.0], 100) == [70.0, 70.0]


def test_layers_are_means_over_seeds(results):
    first, second = (rung.kept_layers for rung in results.rungs)
    assert first['source']['cka'] == pytest.approx([1.0, 0.6])
    assert second['source']['cka'] == pytest.approx([1.0, 0.55])
    assert second['target']['cka'] == [None, 0.25]
    assert first['layers'] == ['stem', 'block']


def test_the_table_says_the_same_in_markdown_and_on_the_terminal(results, capsys):
    print_table(results)
    for text in (markdown_table(results), capsys.readouterr().out):
        row = next(line for line in text.splitlines() if 'fine_tune' in line)
        for cell in ('72.5 ± 3.5', '40.7 to 100.0', '+21.5', '91.0 ± 1.4', '-7.0', '10 s', '1,234'):
            assert cell in row
    assert 'mean ± standard deviation over 3 seeds' in markdown_table(results)
    assert "confidence interval: Student's t over the seeds" in markdown_table(results)


def test_results_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no results at'):
        read_results(tmp_path / 'results.json')
    (tmp_path / 'results.json').write_text('{}')
    with pytest.raises(ValueError, match=r'no results\.json of tools/ladder\.py'):
        read_results(tmp_path / 'results.json')
