"""A model card says what the records say, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from tests.folders import build, folder, make_folders
from tl_plugin.analysis.card import content_hash, rung_of, write_card
from tl_plugin.ladder.records import DomainResult, LadderResults, Recommendation, RungResult
from tl_plugin.reliability.fingerprint import fingerprint

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
    known = dict(truth=[0, 1, 2, 0, 1, None], predicted=[0, 1, 2, 2, 0, 1])
    confident = dict(source=dict(**known, confidence=[0.92, 0.92, 0.72, 0.72, 0.82, 1.0]))
    (here / 'predictions.json').write_text(json.dumps(confident))
    data = {name: build(folder(make_folders(tmp_path / name, 2))) for name in ('here', 'there')}
    return SimpleNamespace(
        folder=tmp_path / 'climbed',
        checkpoint=here / 'epoch_4.pth',
        results=results,
        data=dict(source=data['here'], target=data['there']),
    )


def card(run, **more) -> str:
    return write_card('model', run.checkpoint, METADATA, run.data, ['a.onnx'], **more)


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
        'Estimated on target without its labels: 61.5% (90% interval 55.0 to 70.0)',
        'On the source it lost 3.5 points.',
        'It is the cheapest.',
        'Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016',
        'python tools/train.py a.py',
        'torch, trained with: 9.8.7',
        'It learned from source images with labels and target images without labels.',
        '*(to fill in)*',
        'its mean confidence is 82.0%, right are 60.0%, the expected calibration error is 28.4% (5',
        'temperature was not fitted (tools/calibrate.py)',
        'tools/test.py --corruptions was not run',
    ):
        assert said in body, said


def test_corruptions_and_calibration_are_shown_where_they_were_measured(run):
    weights = {'head.fc.bias': torch.zeros(3)}
    torch.save(dict(state_dict=weights), run.checkpoint)
    curve = dict(clean=90.0, mean_error=31.5, mce=88.8, corruptions=dict(blur=[80, 75, 70, 60, 50]))
    record = dict(
        checkpoint='epoch_4.pth',
        weights=fingerprint(weights),
        baseline='source_only',
        domains=dict(target=curve),
    )
    run.checkpoint.with_suffix('.corruptions.json').write_text(json.dumps(record))
    calibrated = dict(
        temperature=1.5,
        images=40,
        fitted_on='source',
        error_before=0.12,
        error_after=0.034,
        checkpoint='these',
    )
    run.checkpoint.with_suffix('.calibration.json').write_text(json.dumps(calibrated))
    text = card(run, weights='these')
    assert '| blur | 80.0 | 75.0 | 70.0 | 60.0 | 50.0 |' in text
    assert '1 corruption 31.5%, over corruptions 88.8% of the errors of source_only (mCE)' in text
    calibrated = '12.0% as trained, 3.4% with a temperature of 1.500, on 40 images'
    assert calibrated in text
    # Of a model that was trained again, neither holds.
    torch.save(dict(state_dict={'head.fc.bias': torch.ones(3)}), run.checkpoint)
    text = card(run, weights='others')
    assert '| blur |' not in text and calibrated not in text
    assert 'The calibration beside the checkpoint is of other weights' in text


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
