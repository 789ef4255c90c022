"""tools/measure.py: leaf configs in, a metafile and a README's table out."""

import json
import re

import pytest
import yaml

from tests.test_ladder.conftest import run_tool, write_tiny
from tl_plugin.ladder.metafile import (
    BEGIN,
    END,
    choices,
    plan_configs,
    read_entries,
    table,
    write_table,
)
from tl_plugin.ladder.recommend import TARGET_ACCURACY, TARGET_SCORE

LEAF = (
    "task = 'clean -> field'\n"
    "val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='TargetValidator')]\n"
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with one tiny leaf config and a README that has a place for the table."""
    folder = tmp_path_factory.mktemp('configs') / 'tiny_digits'
    folder.mkdir()
    write_tiny(folder, LEAF)
    (folder / 'README.md').write_text(f'# Tiny\n\n{BEGIN}\n{END}\n\nThe end.\n')
    return folder


def measure(folder, *arguments):
    code, output = run_tool(
        folder, *arguments, '--work-dir', folder.parent / 'work', tool='measure.py'
    )
    assert code == 0, output
    return output


def test_measures_what_mmengine_logged_and_keeps_it(folder):
    measure(folder, 'tiny', '--seeds', '0', '1')

    (entry,) = read_entries(folder)
    assert entry['Name'] == 'tiny_clean_to_field' and entry['Config'].endswith('tiny.py')
    assert [run['seed'] for run in entry['Runs']] == [0, 1]
    for run in entry['Runs']:
        work = folder.parent / 'work' / 'clean_to_field' / 'tiny' / f'seed_{run["seed"]}'
        (scalars,) = work.glob('*/vis_data/scalars.json')
        records = [json.loads(line) for line in scalars.read_text().splitlines()]
        accuracies = [record[TARGET_ACCURACY] for record in records if TARGET_ACCURACY in record]
        assert run['oracle'] == pytest.approx(max(accuracies), abs=0.01)
        scores = [record[TARGET_SCORE] for record in records if TARGET_SCORE in record]
        expected = accuracies[scores.index(max(scores))]
        assert run['chosen'] == pytest.approx(expected, abs=0.01)
        tested = json.loads((work / 'result.json').read_text())['accuracy']
        assert run['target'] == pytest.approx(tested['target'], abs=0.01)
        assert run['source'] == pytest.approx(tested['source'], abs=0.01)
    metrics = entry['Results'][1]['Metrics']['Top 1 Accuracy']
    assert metrics == pytest.approx(sum(run['target'] for run in entry['Runs']) / 2, abs=0.01)

    readme = (folder / 'README.md').read_text()
    row = next(line for line in readme.splitlines() if line.startswith('| `tiny.py`'))
    assert float(re.search(r'\| 2 \| ([\d.]+) ±', row).group(1)) == round(metrics, 1)
    assert readme.startswith('# Tiny') and readme.endswith('The end.\n')

    # Once more: the metafile holds it already, even without the runs.
    before = (folder / 'metafile.yml').read_text()
    again = measure(folder, 'tiny', '--seeds', '0', '1', '--work-dir', folder / 'x')
    assert 'starting' not in again
    assert (folder / 'metafile.yml').read_text() == before
    assert yaml.safe_load(before)['Collections'][0]['Name'] == 'tiny_digits'


@pytest.mark.slow
def test_a_changed_config_is_measured_anew(folder):
    measure(folder, 'tiny')
    write_tiny(folder, LEAF + 'optim_wrapper = dict(optimizer=dict(lr=1e-4))\n')
    output = measure(folder, 'tiny')
    assert 'starting' in output
    (entry,) = read_entries(folder)
    # The other seed's run was one of the old config.
    assert [run['seed'] for run in entry['Runs']] == [0]


def test_the_oracle_is_at_least_what_is_chosen():
    records = [
        {'step': step, TARGET_SCORE: score, TARGET_ACCURACY: accuracy}
        for step, score, accuracy in ((1, 0.1, 50.0), (2, 0.3, 40.0), (3, 0.2, 60.0))
    ]
    assert choices(records) == {'chosen': 40.0, 'oracle': 60.0, 'steps': [2, 3]}
    assert choices([{'step': 1, TARGET_ACCURACY: 50.0}]) == {}


def test_wrong_use(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no config .*tinny\.py; there are tiny'):
        plan_configs(folder, ['tinny'], [0], tmp_path)
    write_tiny(tmp_path)
    with pytest.raises(ValueError, match="names no task: set task = 'SOURCE -> TARGET'"):
        plan_configs(tmp_path, ['tiny'], [0], tmp_path)
    (tmp_path / 'README.md').write_text('nothing')
    with pytest.raises(ValueError, match='has no place for the table: put'):
        write_table(tmp_path / 'README.md', [])
    assert table([]) == ''


def test_a_config_may_carry_strategies(folder, tmp_path):
    (jobs,) = plan_configs(folder, ['tiny', 'tiny+adabn'], [0], tmp_path).values()
    plain, adabn = jobs
    assert plain.key != adabn.key and adabn.folder.parent.name == 'tiny+adabn'
    assert 'AdaBNHook' in [hook['type'] for hook in adabn.ready.custom_hooks]
    assert adabn.rung.about.startswith('AdaBN')
    with pytest.raises(ValueError, match='adabnn'):
        plan_configs(folder, ['tiny+adabnn'], [0], tmp_path)


def test_the_table_ends_with_what_choosing_without_labels_costs():
    def entry(config, *runs):
        runs = [dict(zip(('chosen', 'oracle'), run), target=1, source=1, minutes=1) for run in runs]
        return {'Config': f'configs/a/{config}.py', 'Metadata': {'Task': 'a -> b'}, 'Runs': runs}

    text = table([entry('one', (50, 51), (50, 54)), entry('two', (70, 70))])
    line = text.splitlines()[-1]
    assert '1.25 points, mean over 2 configs; at most 2.50 (`one.py`)' in line
    without = entry('three')
    without['Runs'] = [dict(target=1, source=1, minutes=1)]
    assert 'oracle:' not in table([without]) and 'Behind' not in table([without])
