"""A model card says what the records say, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import yaml

from tests.folders import build, folder, make_folders
from tl_plugin.apis.export.card import content_hash, rung_of, write_card
from tl_plugin.ladder.records import DomainResult, LadderResults, Recommendation, RungResult

METADATA = dict(
    classes=['circle', 'line', 'square'], input={}, provenance=dict(checkpoint='epoch_4.pth')
)


@pytest.fixture
def run(tmp_path):
    """The folder of a climb: records around a checkpoint, images that were tested on."""
    here = tmp_path / 'climbed' / 'dann' / 'seed_0'
    here.mkdir(parents=True)
    rung = RungResult(
        'dann',
        about='Features that do not reveal the domain.',
        strategies=['dann'],
        data='source+target',
        domains=dict(
            source=DomainResult(91.25, accuracy_interval=[85.5, 95.0], images=80, change=-3.5),
            target=DomainResult(test_images=50, expected_accuracy=61.5, expected_interval=[55, 70]),
        ),
        command='python tools/train.py a.py',
        checkpoint=str(here / 'epoch_4.pth'),
        folders=[str(here)],
    )
    results = LadderResults(
        'config.py',
        rungs=[replace(rung, name='source_only', folders=[], checkpoint=''), rung],
        versions=dict(torch='9.8.7'),
        recommendation=Recommendation('dann', ['It is the cheapest.'], 'target/score'),
    )
    (tmp_path / 'climbed' / 'results.json').write_text(json.dumps(results.to_json()))
    data = {name: build(folder(make_folders(tmp_path / name, 2))) for name in ('here', 'there')}
    return SimpleNamespace(
        folder=tmp_path / 'climbed',
        checkpoint=here / 'epoch_4.pth',
        results=results,
        data=dict(source=data['here'], target=data['there']),
    )


def card(run) -> str:
    return write_card('model', run.checkpoint, METADATA, run.data, ['model.onnx'], ['as it was'])


def test_figures_are_those_of_the_records(run):
    text = card(run)
    _, front, body = text.split('---\n', 2)
    front = yaml.safe_load(front)
    assert front['tags'][-1] == 'dann'
    (measured,) = front['model-index'][0]['results']  # the target has no accuracy
    assert measured['metrics'][0]['value'] == 91.25
    for said in (
        '| source | 91.2 | 85.5 to 95.0 | 80 of 0 | -3.5 |',
        '| target | not known | not known | 0 of 50 | not known |',
        'Expected on target without its labels: 61.5% (90% interval 55.0 to 70.0)',
        'On the source it lost 3.5 points.',
        'It is the cheapest.',
        'Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016',
        'python tools/train.py a.py',
        'torch 9.8.7',
        '*(to fill in)*',
        'tools/calibrate.py was not run',
        'tools/test.py --corruptions was not run',
    ):
        assert said in body, said


def test_corruptions_and_calibration_are_shown_where_they_were_measured(run):
    curve = dict(clean=90.0, mean_error=31.5, mce=88.8, corruptions=dict(blur=[80, 75, 70, 60, 50]))
    record = dict(baseline='source_only', domains=dict(target=curve))
    run.checkpoint.with_suffix('.corruptions.json').write_text(json.dumps(record))
    calibrated = dict(
        temperature=1.5, images=40, fitted_on='source', error_before=0.12, error_after=0.034
    )
    run.checkpoint.with_suffix('.calibration.json').write_text(json.dumps(calibrated))
    text = card(run)
    assert '| blur | 80.0 | 75.0 | 70.0 | 60.0 | 50.0 |' in text
    assert 'mean corruption error 31.5, 88.8 in percent of source_only' in text
    assert '12.0% as trained, 3.4% with a temperature of 1.500, on 40 images' in text


def test_without_records_nothing_is_claimed(run, tmp_path):
    (run.folder / 'results.json').unlink()
    text = card(run)
    assert 'model-index' not in text and 'no record of a test was found' in text


def test_a_checkpoint_is_of_the_rung_whose_folder_it_lies_in(run, tmp_path):
    results = asdict(run.results)
    assert rung_of(results, run.checkpoint)['name'] == 'dann'
    moved = tmp_path / 'elsewhere' / 'dann' / 'seed_0' / 'epoch_4.pth'
    assert rung_of(results, moved)['name'] == 'dann'
    assert rung_of(results, tmp_path / 'other' / 'epoch_4.pth') is None


def test_the_hash_is_of_what_images_hold(run, tmp_path):
    before = content_hash(run.data['source'])
    assert before == content_hash(run.data['target'])  # all are empty files
    (tmp_path / 'there' / 'line' / '000.png').write_bytes(b'x')
    assert before != content_hash(run.data['target'])
