import json
import statistics

import pytest

from tests.test_ladder.conftest import write_tiny
from tl_plugin.ladder.job import Failure, plan
from tl_plugin.ladder.results import (
    collect,
    markdown_table,
    print_table,
    read_results,
    recommended_rung,
)
from tl_plugin.ladder.rungs import read_rungs, select_rungs
from tl_plugin.launch import load_config

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
            key=job.key, accuracy=dict(source=source, target=target), seconds=10.0 + job.seed,
            trainable_parameters=1234, parameters=5678, epochs=2, iterations=8,
            checkpoint='epoch_2.pth',
            validation={'source/accuracy/top1': source - 1, 'target/accuracy/top1': target + 1},
        )
        (job.folder / 'result.json').write_text(json.dumps(result))
    return collect(jobs, [Failure(jobs[-1], 'ValueError: x')], 'tiny.py')


def test_means_and_spread_over_the_finished_seeds(results):
    for rung in results['rungs']:
        for column, domain in enumerate(('source', 'target')):
            values = [seed[column] for seed in ACCURACY[rung['name']]]
            assert rung[f'{domain}_accuracy'] == pytest.approx(sum(values) / len(values), abs=0.01)
            assert rung[f'{domain}_accuracy_by_seed'] == values
            spread = statistics.pstdev(values) * (len(values) / (len(values) - 1)) ** 0.5
            assert rung[f'{domain}_accuracy_spread'] == pytest.approx(spread, abs=0.01)
    assert [rung['seeds'] for rung in results['rungs']] == [[0, 1, 2], [0, 1]]
    assert results['rungs'][1]['target_change'] == pytest.approx(72.5 - 51, abs=0.01)
    assert results['rungs'][1]['validation']['target/accuracy/top1'] == [76, 71]
    assert recommended_rung(results)['name'] == 'fine_tune'
    assert results['failures'][0]['name'] == 'fine_tune'


def test_the_table_says_the_same_in_markdown_and_on_the_terminal(results, capsys):
    print_table(results)
    for text in (markdown_table(results), capsys.readouterr().out):
        row = next(line for line in text.splitlines() if 'fine_tune' in line)
        for cell in ('72.5 ± 3.5', '+21.5', '91.0 ± 1.4', '-7.0', '10 s', '1,234'):
            assert cell in row
    assert 'mean ± standard deviation over 3 seeds' in markdown_table(results)


def test_results_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no results at'):
        read_results(tmp_path / 'results.json')
    (tmp_path / 'results.json').write_text('{}')
    with pytest.raises(ValueError, match=r'no results\.json of tools/ladder\.py'):
        read_results(tmp_path / 'results.json')
