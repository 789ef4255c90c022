"""The ladder as its user meets it: tools/ladder.py, real runs, a terminal's text."""

import json
import re
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner

from tests.forked import start_tool
from tests.pages import Page, check_that_it_stands_alone, numbers
from tests.test_ladder.conftest import ROOT, RUNGS, run_tool, write_tiny
from tl_plugin.ladder import few_labels
from tl_plugin.ladder.few_labels import notes_on_few_labels
from tl_plugin.ladder.jobs import plan
from tl_plugin.ladder.run_ladder import run_ladder
from tl_plugin.ladder.selection import read_rungs
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.console import tool_command
from tl_plugin.reliability.checkpoints import newest_whole_checkpoint

# Long enough to be interrupted.
LONG = 'train_cfg = dict(max_epochs=15)\nparam_scheduler = dict(T_max=15)\n'


def test_results_of_all_rungs(climbed):
    results = climbed.results
    assert [rung['name'] for rung in results['rungs']] == RUNGS
    for rung in results['rungs']:
        folder = climbed.work_dir / rung['name'] / 'seed_0'
        predictions = json.loads((folder / 'predictions.json').read_text())
        for domain in ('source', 'target'):
            found = predictions[domain]
            right = [a == b for a, b in zip(found['truth'], found['predicted'])]
            assert len(right) == 30
            assert rung['domains'][domain]['accuracy'] == pytest.approx(
                100 * sum(right) / 30, abs=0.01
            )
            by_seed = rung['domains'][domain]['accuracy_by_seed']
            assert by_seed == pytest.approx([rung['domains'][domain]['accuracy']], abs=0.01)
        assert rung['seconds'] > 0
        assert rung['config'] == str(folder / 'config.py')
    # What the runs shared is gone.
    assert not (climbed.work_dir / 'degraded_copies').exists()
    assert {'commit', 'date', 'versions', 'machine'} <= set(results)
    assert not results['failures']


def test_accuracy_is_what_the_stock_metric_says(climbed):
    for name in RUNGS:
        result = json.loads((climbed.work_dir / name / 'seed_0' / 'result.json').read_text())
        for domain in ('source', 'target'):
            stock = result['metrics'][f'{domain}/accuracy/top1']
            assert result['accuracy'][domain] == pytest.approx(stock, abs=0.01)


def test_only_the_head_trains_in_feature_extraction(climbed):
    rungs = {rung['name']: rung for rung in climbed.results['rungs']}
    assert rungs['feature_extraction']['trainable_parameters'] == 32 * 10 + 10
    assert rungs['fine_tune']['trainable_parameters'] == rungs['fine_tune']['parameters']
    start, trained = (
        torch.load(rungs[name]['checkpoint'], weights_only=True)['state_dict']
        for name in ('source_only', 'feature_extraction')
    )
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert changed == {'head.fc.weight', 'head.fc.bias'}


def test_the_table_and_the_last_lines(climbed):
    text = climbed.output
    for name in RUNGS:
        step = rf'\[\d/{len(RUNGS)}\] {name} \(seed 0\)'
        assert re.search(rf'{step}: source \d+\.\d%, target \d+\.\d%', text)
        data = '(all|source|target|labelled target|source.labelled target|two models)'
        assert re.search(rf'^ +{name} +{data}', text, re.MULTILINE)
    last = text.strip().splitlines()[-6:]
    assert last[0] == f'Report:  {climbed.work_dir / "report.html"}'
    assert last[1] == f'Card:    {climbed.work_dir / "card.md"}'
    assert last[2] == f'Results: {climbed.work_dir / "results.json"}'
    assert re.match(r'Take \w+\. On validation images \w+ reaches \d+\.\d% of the target', last[3])
    assert tool_command('train.py', climbed.work_dir) in last[5]
    card = (climbed.work_dir / 'card.md').read_text()
    rung = climbed.results['recommendation']['rung']
    assert f'It is the rung `{rung}` of a ladder.' in card


@pytest.mark.slow
@pytest.mark.parametrize('how', [['--jobs', '1'], ['--devices', '0', '1']])
def test_one_rung_after_the_other_reaches_what_several_at_once_do(climbed, tmp_path, how):
    rungs = ['--rungs', *RUNGS[1:]]
    # Without GPUs the two names only say how many runs may go on at once.
    code, output = run_tool(climbed.config, '--work-dir', tmp_path, *rungs, *how)
    assert code == 0, output
    results = json.loads((tmp_path / 'results.json').read_text())
    for now, then in zip(results['rungs'], climbed.results['rungs']):
        assert now['name'] == then['name']
        assert now['domains'] == then['domains']


def test_all_others_begin_when_the_first_rung_has_ended(climbed):
    lines = climbed.output.splitlines()
    events = [line for line in lines if re.search(r': starting$|% in \d+ s$', line)]
    assert [line.endswith('starting') for line in events[:4]] == [True, False, True, True]


def test_the_source_model_of_a_climb_judges_the_few_labels(climbed, tmp_path, monkeypatch):
    cfg = load_config(climbed.config)
    rungs = read_rungs(cfg.ladder)
    jobs = plan(cfg, [rungs['source_only'], rungs['fine_tune']], [0], climbed.work_dir)
    seen = []
    words = few_labels.few_labels_in_words
    monkeypatch.setattr(
        few_labels, 'few_labels_in_words', lambda *found: seen.append(found) or words(*found)
    )
    notes_on_few_labels(cfg, jobs, tmp_path)
    ((report, accuracy),) = seen
    assert accuracy == jobs[0].result().validation['target/accuracy/top1']
    assert report.images == len(report.findings) > 0 and report.rate is None
    doubted = {one.file for one in report.flagged()}
    # All labels are such as the model would not give.
    few = cfg.ladder.labelled_target_dataloader
    others = [
        [int(one.file.split('/')[1]), str((int(one.given) + 1) % 10)]
        for one in report.findings
        if one.file not in doubted
    ]
    full = few_labels.inherit_dataloader(cfg.train_dataloader, few, 'few', labelled=True)
    few.dataset = dict(type='CorrectedLabels', dataset=full['dataset'], changes=others)
    few.dataset['_delete_'] = True
    monkeypatch.setattr(few_labels, 'few_labels_in_words', lambda found, _: words(found, 60.0))
    (note,) = notes_on_few_labels(cfg, jobs, tmp_path)
    assert f'{report.images} of the {report.images} target labels' in note
    assert notes_on_few_labels(cfg, jobs[:1], tmp_path) == []
    assert notes_on_few_labels(Config(), [SimpleNamespace(rung=rungs['fine_tune'])], tmp_path) == []


def test_finished_rungs_are_kept_and_a_changed_one_is_run_again(climbed):
    def times():
        results = {name: climbed.work_dir / name / 'seed_0' / 'result.json' for name in RUNGS}
        return {name: path.stat().st_mtime_ns for name, path in results.items()}

    before = times()
    option = 'ladder.rungs.feature_extraction.options.optim_wrapper.optimizer.lr=0.01'
    known = [climbed.config, '--work-dir', climbed.work_dir, '--rungs', *RUNGS]
    code, output = run_tool(*known, '--cfg-options', option)
    assert code == 0, output
    assert output.count('finished before, kept') == len(RUNGS) - 1
    assert {name for name in RUNGS if before[name] != times()[name]} == {'feature_extraction'}
    assert (climbed.work_dir / 'feature_extraction' / 'seed_0.old' / 'result.json').is_file()


def test_a_ready_config_gives_the_same_weights_without_the_ladder(climbed, tmp_path):
    config = Config.fromfile(climbed.work_dir / 'dann' / 'seed_0' / 'config.py')
    folder = config.work_dir
    config.merge_from_dict({'work_dir': str(tmp_path), 'experiment_name': 'without_the_ladder'})
    Runner.from_cfg(config).train()
    ours, plain = (
        CheckpointLoader.load_checkpoint(str(Path(path) / 'epoch_2.pth'))['state_dict']
        for path in (folder, tmp_path)
    )
    assert all(torch.equal(ours[name], plain[name]) for name in ours)


def test_the_report_stands_alone_and_begins_with_the_advice(climbed):
    page = check_that_it_stands_alone((climbed.work_dir / 'report.html').read_text())
    # Ten samples a domain; curves and two matrices a rung.
    assert len(page.pictures) >= 20 + 4 * len(RUNGS)
    advice = climbed.results['recommendation']
    headings = [text for tag, text in page.landmarks if tag in ('h1', 'h2')]
    assert headings[1] == f'Take {advice["rung"]}.'
    first = page.text.split('Every rung of the ladder')[0]
    assert all(reason in first for reason in advice['reasons'])


def check_figures(content, results):
    """Every figure of the table, the advice and the picture's words is the JSON's."""
    page = Page(content)
    header, *_ = table = page.tables['Results']
    rows = {row[0]: row[1:] for row in table}
    chosen = next(r for r in results['rungs'] if r['name'] == results['recommendation']['rung'])
    overview = next(p['alt'] for p in page.pictures if p['alt'].startswith('Target accuracy'))
    for rung in results['rungs']:
        learns_from, *cells = rows[rung['name']]
        assert learns_from == rung['data'].replace('_', ' ')
        expected = [
            value
            for domain in ('target', 'source')
            for value in (
                [rung['domains'][domain]['accuracy']],
                rung['domains'][domain]['accuracy_interval'],
                [rung['domains'][domain]['change']],
            )
        ]
        if 'expected %' in header:
            on = rung['domains']['target']
            value = on['expected_accuracy']
            expected[3:3] = [[]] if value is None else [[value], on['expected_interval']]
        *cells, seconds, trainable = cells
        for cell, values in zip(cells, expected):
            assert numbers(cell) == pytest.approx(values, abs=0.0501)
        assert len(cells) == len(expected)
        assert numbers(seconds) == [round(rung['seconds'])]
        assert numbers(trainable) == [rung['trainable_parameters']]
        words = re.search(rf' {rung["name"]} ([^;]*)%(;|$)', ' '.join(overview.split())).group(1)
        both = [rung['domains']['target']['accuracy'], rung['domains']['source']['accuracy']]
        assert numbers(words) == pytest.approx(both, abs=0.0501)
    said = re.search(r'played no part in the choice, say (.*?)\. Its ready', page.text).group(1)
    expected = [
        chosen['domains']['target']['accuracy'],
        95,
        *chosen['domains']['target']['accuracy_interval'],
        chosen['domains']['target']['change'],
        chosen['domains']['source']['accuracy'],
        chosen['domains']['source']['change'],
    ]
    on = chosen['domains']['target']
    if on['expected_accuracy'] is not None:
        expected += [on['expected_accuracy'], 90, *on['expected_interval']]
    assert numbers(said) == pytest.approx(expected, abs=0.0501)
    before = re.search(r'a model that is right on (.*)% of the target', page.text).group(1)
    first = results['rungs'][0]
    both = [first['domains']['source']['accuracy'], first['domains']['target']['accuracy']]
    assert numbers(before) == pytest.approx(both, abs=0.0501)


def test_figures_of_the_report_are_those_of_the_json(climbed):
    check_figures((climbed.work_dir / 'report.html').read_text(), climbed.results)


@pytest.mark.parametrize(
    ('domain', 'key'),
    [
        *product(['source', 'target'], ['accuracy', 'change', 'accuracy_interval']),
        (None, 'seconds'),
        (None, 'trainable_parameters'),
    ],
)
def test_a_wrong_figure_would_be_seen(climbed, domain, key):
    results = climbed.results
    rung = results['rungs'][-1]
    found = rung['domains'][domain] if domain else rung
    # By 2, since 1.5 and 2.5 are the same number of whole seconds.
    found[key] = [value + 2 for value in found[key]] if 'interval' in key else found[key] + 2
    with pytest.raises(AssertionError):
        check_figures((climbed.work_dir / 'report.html').read_text(), results)


def test_the_markdown_table_is_the_results(climbed):
    code, output = run_tool('--markdown', climbed.work_dir / 'results.json')
    assert code == 0, output
    table = [line.split('|')[1:-1] for line in output.splitlines() if line.startswith('|')]
    header = [cell.strip() for cell in table[0]]
    rows = {row[0].strip(): [cell.strip() for cell in row] for row in table[2:]}
    assert list(rows) == RUNGS
    for rung in climbed.results['rungs']:
        row = dict(zip(header, rows[rung['name']]))
        assert row['target %'] == f'{rung["domains"]["target"]["accuracy"]:.1f}'
        assert row['trainable'] == f'{rung["trainable_parameters"]:,}'


def test_a_failing_rung_is_shown_and_takes_along_only_what_starts_from_it(tmp_path):
    config = write_tiny(
        tmp_path,
        'ladder = dict(rungs=dict(\n'
        "    broken=dict(strategies=['source_only'],\n"
        "        options=dict(train_dataloader=dict(dataset=dict(quality='dirty')))),\n"
        "    after=dict(strategies=['source_only'], start='broken'),\n"
        "    late=dict(strategies=['source_only']),\n"
        '))\n',
    )
    work_dir = tmp_path / 'work'
    rungs = ['--rungs', 'broken', 'after', 'late']
    code, said = run_tool(config, '--work-dir', work_dir, *rungs)
    assert code == 1
    assert "qualities ['clean', 'field'], got 'dirty'" in said
    assert 'run the same command again' in said
    assert 'not run: it starts from broken (seed 0), which failed' in said
    results = json.loads((work_dir / 'results.json').read_text())
    assert [rung['name'] for rung in results['rungs']] == ['late']
    assert [failure['name'] for failure in results['failures']] == ['broken', 'after']
    assert (work_dir / 'report.html').is_file()
    assert not list(work_dir.rglob('*.tmp'))
    assert not (work_dir / 'broken' / 'seed_0' / 'result.json').exists()


def test_an_interrupted_rung_goes_on_where_it_was(tmp_path):
    """Ended from outside after a checkpoint, with the newest one cut off."""
    config, work_dir = write_tiny(tmp_path, LONG), tmp_path / 'work'
    folder = work_dir / 'source_only' / 'seed_0'
    known = [config, '--work-dir', work_dir, '--rungs', 'source_only']
    process = start_tool(ROOT / 'tools' / 'ladder.py', *known, log=tmp_path / 'log')
    deadline = time.monotonic() + 200
    while not (folder / 'epoch_3.pth').exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 143
    assert not (folder / 'result.json').exists()
    newest = max(folder.glob('*.pth'), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = newest_whole_checkpoint(folder)
    assert resumed not in (None, newest)
    # Its process has gone too: nothing has been written since.
    assert newest.stat().st_size == 1000

    code, output = run_tool(*known)
    assert code == 0, output
    log = (folder / 'console.log').read_text()
    assert f'resumed epoch: {int(resumed.stem.split("_")[1])}' in log
    assert json.loads((folder / 'result.json').read_text())['epochs'] == 15


def test_a_mistake_in_the_config_is_told_before_anything_is_trained(tmp_path):
    config = write_tiny(tmp_path, 'ladder = dict(rungs=dict(dann=dict(strategies=["danm"])))\n')
    with pytest.raises(ValueError, match="unknown strategy 'danm'"):
        run_ladder(config, tmp_path / 'work')
    assert not (tmp_path / 'work').exists()
