import statistics

import pytest

from tests.test_ladder.conftest import ACCURACY
from tl_plugin.evaluation.intervals import accuracy_interval
from tl_plugin.ladder.results import read_results
from tl_plugin.ladder.table import markdown_table, print_table


def test_means_and_spread_over_the_finished_seeds(results):
    for rung in results.rungs:
        for column, domain in enumerate(('source', 'target')):
            values = [seed[column] for seed in ACCURACY[rung.name]]
            on = rung.on(domain)
            assert on.accuracy == pytest.approx(sum(values) / len(values), abs=0.01)
            assert on.accuracy_by_seed == values
            spread = statistics.pstdev(values) * (len(values) / (len(values) - 1)) ** 0.5
            assert on.accuracy_spread == pytest.approx(spread, abs=0.01)
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
    assert first.cka['source'] == pytest.approx([1.0, 0.6])
    assert second.cka['source'] == pytest.approx([1.0, 0.55])
    assert second.cka['target'] == [None, 0.25]
    assert second.drift == dict(source=0.1, target=None)
    assert first.layers == ['stem', 'block']


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
