"""Targets without labels, with labels in one split alone, on some images, or not validated."""

import json

import numpy as np
import pytest

from tests.pages import check_that_it_stands_alone
from tests.test_ladder.test_schema import check
from tests.toy import toy_config
from tl_plugin.ladder import run_ladder as module
from tl_plugin.ladder.jobs import make_folder
from tl_plugin.ladder.limits import Limits
from tl_plugin.ladder.ready_config import place
from tl_plugin.ladder.recommend import TARGET_ACCURACY, TARGET_VOTE
from tl_plugin.ladder.results import read_results
from tl_plugin.ladder.run_ladder import run_ladder
from tl_plugin.ladder.run_rung import run_rung
from tl_plugin.ladder.table import markdown_table

#: Labels of validation and test images of the target; None: no such images.
CASES = {
    'none': ('none', 'none'),
    'validation alone': ('true', 'none'),
    'test alone': ('none', 'true'),
    'some': ('some', 'some'),
    'not validated': (None, 'none'),
}
SIZE = 9


def climb_here(jobs, display, stop, devices):
    """Real runs, in this process: starting another one takes longer than training here."""
    for job in jobs:
        if job.result():
            continue
        start, baseline = (
            other.result().checkpoint if other else None for other in (job.start, job.baseline)
        )
        make_folder(job)
        place(job.ready, job.folder, start, [each.result().checkpoint for each in job.adapted])
        run_rung(job.folder, job.key, baseline)
    return [], {}


def write_config(folder, val, test, size=SIZE, **ladder):
    def domain(labels):
        return dict(target=dict(dataset=dict(labels=labels, shift=0.5, size=size, seed=1)))

    options = {
        'test_cfg': dict(type='DomainTestLoop', dataloaders=domain(test)),
        'ladder': dict(
            target_dataloader=dict(dataset=dict(labels='none', shift=0.5, size=SIZE, seed=2)),
            **ladder,
        ),
        'optim_wrapper.optimizer.lr': 0.05,
    }
    if val is not None:
        options['val_cfg'] = dict(type='DomainValLoop', dataloaders=domain(val))
    cfg = toy_config(folder, options=options, max_epochs=1)
    path = folder / 'toy.py'
    cfg.dump(path)
    return path


class Climbed:
    """Two rungs on a target with certain labels, and what was printed."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.work_dir = folder / 'work'
        self.config = write_config(folder, *CASES[name], notes=['A note on the data.'])

    def run(self, **options):
        return run_ladder(self.config, self.work_dir, ['adabn'], **options)

    @property
    def results(self):
        return read_results(self.work_dir / 'results.json')

    @property
    def rungs(self):
        return json.loads((self.work_dir / 'results.json').read_text())['rungs']

    @property
    def page(self):
        return check_that_it_stands_alone((self.work_dir / 'report.html').read_text())


@pytest.fixture(scope='module')
def climbs(tmp_path_factory):
    """Each case, climbed when it is first asked for."""
    known = {}

    def climbed(name):
        if name not in known:
            known[name] = Climbed(name, tmp_path_factory.mktemp('labels'))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, 'climb', climb_here)
                assert known[name].run() == 0
        return known[name]

    return climbed


def predictions(rung):
    with open(f'{rung["folders"][0]}/predictions.json') as file:
        return json.load(file)['target']


@pytest.mark.parametrize('name', CASES)
def test_the_whole_path_ends_with_table_results_and_report(climbs, name):
    climbed = climbs(name)
    results = climbed.results
    check(results)
    assert [rung.name for rung in results.rungs] == ['source_only', 'adabn']
    assert results.to_json() == json.loads((climbed.work_dir / 'results.json').read_text())
    page, text = climbed.page, markdown_table(results)
    assert 'A note on the data.' in page.text and 'A note on the data.' in text
    for rung in results.rungs:
        assert rung.on('source').accuracy is not None
        assert rung.name in text
    assert 'What this report is without' not in page.text


@pytest.mark.parametrize('name', ['none', 'validation alone', 'not validated'])
def test_what_cannot_be_known_is_none_and_something_else_is_said(climbs, name):
    climbed = climbs(name)
    base, adabn = climbed.rungs
    for rung in (base, adabn):
        found = predictions(rung)
        on = rung['domains']['target']
        assert found['truth'] == [None] * SIZE
        for key in ('accuracy', 'accuracy_spread', 'accuracy_interval', 'change'):
            assert on[key] is None
        assert (on['images'], on['test_images']) == (0, SIZE)
        confident = np.mean([value >= 0.9 for value in found['confidence']])
        assert on['confident'] == pytest.approx(100 * confident, abs=0.01)
        same = np.mean(np.equal(found['predicted'], predictions(base)['predicted']))
        assert on['agreement'] == pytest.approx(100 * same, abs=0.01)
        assert 0 <= on['label_free']['information_maximization'] <= np.log(3)
    text = markdown_table(climbed.results)
    assert '| target % |' not in text and '| confident % | as source_only % |' in text
    assert "images have no labels, so no rung's accuracy on them is known" in text
    shown = climbed.page
    assert 'have no labels' in shown.text and '% on the target' not in shown.text
    labels = [p['alt'] for p in shown.pictures if p['alt'].startswith('Target test image')]
    assert labels and all('without a label' in alt for alt in labels)
    assert any('How often adabn predicts each class' in p['alt'] for p in shown.pictures)


def test_labels_on_some_images_are_all_that_accuracy_is_over(climbs):
    climbed = climbs('some')
    for rung in climbed.rungs:
        found = predictions(rung)
        pairs = [(t, p) for t, p in zip(found['truth'], found['predicted']) if t is not None]
        assert [t for t, _ in pairs] == [0, 2, 1, 0, 2]
        expected = 100 * np.mean([t == p for t, p in pairs])
        on = rung['domains']['target']
        assert on['accuracy'] == pytest.approx(expected, abs=0.01)
        assert (on['images'], on['test_images']) == (5, SIZE)
        # Validation and test images are the same ones here.
        assert rung['validation']['target/accuracy/top1'] == [pytest.approx(expected, abs=0.01)]
    assert climbed.results.recommendation.measure == TARGET_ACCURACY
    text = markdown_table(climbed.results)
    assert '5 of 9 test images that have a label' in text
    assert '5 of the 9 validation images of the target have a label' in climbed.page.text


@pytest.mark.parametrize(
    ('name', 'measure'),
    [('none', TARGET_VOTE), ('test alone', TARGET_VOTE), ('validation alone', TARGET_ACCURACY)],
)
def test_what_recommends(climbs, name, measure):
    climbed = climbs(name)
    found = climbed.results.recommendation
    assert found.measure == measure
    assert ('weak reason' in ' '.join(found.reasons)) == (measure == TARGET_VOTE)
    assert ('on weak grounds' in climbed.page.text) == (measure == TARGET_VOTE)
    text = markdown_table(climbed.results)
    assert ('target validation %' in text) == (name == 'validation alone')
    assert ('| target % |' in text) == (name == 'test alone')


def test_a_target_that_is_not_validated_gives_no_recommendation(climbs, capsys):
    climbed = climbs('not validated')
    assert climbed.results.recommendation is None
    assert climbed.run() == 0  # finished rungs are kept
    said = capsys.readouterr().out
    assert said.count('finished before, kept') == 2
    assert 'No recommendation: nothing was validated on the target' in said
    with pytest.raises(ValueError, match="'interpolation' can't be climbed: it needs validation"):
        run_ladder(climbed.config, climbed.work_dir, ['interpolation'])


@pytest.mark.parametrize('limit', [dict(until=80), dict(early_stop=True)])
def test_a_limit_that_cannot_act_is_refused_before_anything_trains(tmp_path, limit):
    reasons = {
        ('none', 'true'): 'none of its 9 target images has a label',
        (None, 'true'): 'the target is not validated',
    }
    for labels, reason in reasons.items():
        config = write_config(tmp_path, *labels)
        with pytest.raises(ValueError, match=rf'would never end the climb: .*{reason}'):
            run_ladder(config, tmp_path / 'work', limits=Limits(**limit))
        assert not (tmp_path / 'work').exists()


def test_the_cures_of_such_a_limit(climbs, capsys):
    climbed = climbs('some')  # labels on some of the validation images
    assert climbed.run(limits=Limits(until=80, early_stop=True)) == 0
    assert climbs('none').run(limits=Limits(budget_time=1000)) == 0


def test_extras_never_fail_a_finished_run(tmp_path, monkeypatch, capsys):
    """Three images are too few to compare layers by; a report that fails costs no result."""
    monkeypatch.setattr(module, 'climb', climb_here)
    config = write_config(tmp_path, 'true', 'true', size=3)
    assert run_ladder(config, tmp_path / 'work', ['adabn']) == 0
    adabn = read_results(tmp_path / 'work' / 'results.json').rungs[1]
    (reason,) = adabn.left_out.values()
    assert 'at least 4 images' in reason and adabn.kept_layers is None
    assert 'Left out of adabn: comparison with the source model' in capsys.readouterr().out
    page = check_that_it_stands_alone((tmp_path / 'work' / 'report.html').read_text())
    assert 'at least 4 images' in page.text

    def broken(*arguments):
        raise RuntimeError('no fonts')

    # A part of the report, then all of it.
    monkeypatch.setattr('tl_plugin.reporting.plots.plot_tradeoff', broken)
    assert run_ladder(config, tmp_path / 'work', ['adabn']) == 0
    page = check_that_it_stands_alone((tmp_path / 'work' / 'report.html').read_text())
    assert 'overview: RuntimeError: no fonts' in page.text
    monkeypatch.setattr(module, 'make_report', broken)
    (tmp_path / 'work' / 'results.json').unlink()
    assert run_ladder(config, tmp_path / 'work', ['adabn']) == 0
    assert 'No report: RuntimeError: no fonts' in capsys.readouterr().out
    assert len(read_results(tmp_path / 'work' / 'results.json').rungs) == 2
    assert not (tmp_path / 'work' / 'report.html').exists()
