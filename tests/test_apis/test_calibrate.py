"""From a checkpoint to calibrated rows: sure, sets, unlike; and what is refused."""

from __future__ import annotations

import csv
import json

import cv2
import pytest

from tl_plugin.apis import calibrate, calibrate_run, predict
from tl_plugin.evaluation.calibration import calibration_path
from tl_plugin.ladder.records import LadderResults, Recommendation, RungResult
from tl_plugin.ladder.run_ladder import calibrate_recommended
from tl_plugin.launch.configs import load_config


@pytest.fixture(scope='module')
def calibrated(user, tmp_path_factory):
    """A copy of the user's checkpoint with its calibration."""
    folder = tmp_path_factory.mktemp('calibrated')
    weights = folder / 'model.pth'
    weights.write_bytes(user.weights.read_bytes())
    return weights, calibrate(user.config, weights)


def read(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_it_lies_beside_the_checkpoint_and_holds_no_image(calibrated):
    weights, found = calibrated
    assert found.path == calibration_path(weights) and found.path.is_file()
    text = found.path.read_text()
    assert '.png' not in text and len(text) < 200_000
    assert found.calibration.images == 60
    # The folders are in another order than the classes of the checkpoint.
    assert found.calibration.accuracy > 0.6
    assert found.calibration.fitted_on == "the source's validation images"


def test_for_a_target_the_source_is_degraded_and_weighted(user, tmp_path, monkeypatch):
    monkeypatch.setattr('tl_plugin.apis.calibration_images.MATCHED', 8)
    dark = tmp_path / 'dark'
    dark.mkdir()
    for path in sorted((user.folder / 'field').rglob('*.png')):
        cv2.imwrite(str(dark / path.name), cv2.imread(str(path)) // 3)
    out = tmp_path / 'x.json'
    found = calibrate(user.config, user.weights, dark, out=out)
    assert 'degraded' in found.calibration.fitted_on and 'low_light' in ' '.join(found.notes)
    assert any('weighted' in note for note in found.notes)
    plain = calibrate(user.config, user.weights, out=tmp_path / 'plain.json').calibration
    assert found.calibration.accuracy < plain.accuracy
    assert found.calibration.reference.to_json() == plain.reference.to_json()


def test_a_ladder_calibrates_what_it_recommends_and_never_fails_by_it(
    user, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr('tl_plugin.apis.calibration_images.MATCHED', 8)
    weights = tmp_path / 'model.pth'
    weights.write_bytes(user.weights.read_bytes())
    cfg = load_config(user.config)
    cfg.train_dataloader = cfg.val_dataloader
    field = dict(data_root=str(user.folder / 'field'), with_label=False)
    cfg.ladder = dict(target_dataloader=dict(dataset=field))
    rung = RungResult('dann', config=str(user.config), checkpoint=str(weights))
    results = LadderResults('x', rungs=[rung], recommendation=Recommendation('dann', [], ''))

    def broken(*given):
        raise ValueError('no')

    calibrate_recommended(results, cfg, broken)
    assert 'Not calibrated: ValueError: no. The results are' in capsys.readouterr().out
    calibrate_recommended(results, cfg, calibrate_run)
    said, path = capsys.readouterr().out, calibration_path(weights)
    assert 'temperature' in said and 'on 60 images' in said
    assert predict(user.config, weights, user.folder / 'field', tmp_path / 'x.csv').calibrated
    before = path.stat().st_mtime_ns
    calibrate_recommended(results, cfg, broken)  # what is there is kept
    assert path.stat().st_mtime_ns == before and not capsys.readouterr().out


def test_predict_reads_it(user, calibrated, tmp_path):
    weights, found = calibrated
    options = dict(precision=0.6, coverage=0.8)
    summary = predict(user.config, weights, user.folder / 'field', tmp_path / 'x.csv', **options)
    rows = read(tmp_path / 'x.csv')
    threshold = found.calibration.sure_threshold(0.6)
    expected = ['yes' if float(row['confidence']) >= threshold else 'no' for row in rows]
    assert threshold is not None and [row['sure'] for row in rows] == expected
    assert summary.sure == expected.count('yes') and summary.calibrated
    in_set = found.calibration.set_threshold(0.8)
    for row in rows:
        ranked = [(row['prediction'], float(row['confidence']))]
        ranked += [(row[f'prediction_{k}'], float(row[f'confidence_{k}'])) for k in (2, 3)]
        members = {name for name, score in ranked if score >= in_set} | {row['prediction']}
        assert set(row['prediction_set'].split('|')) == members
        assert float(row['distance']) > 0 and row['unlike_source'] in ('yes', 'no')
    assert sum(one.source for one in summary.classes) == pytest.approx(1)
    assert sum(one.estimated for one in summary.classes) == pytest.approx(1)
    # The field images come in the order of the checkpoint's classes.
    names = sorted(rows, key=lambda row: row['image'][-7:])
    right = [row['prediction'] == ('red', 'green', 'blue')[i % 3] for i, row in enumerate(names)]
    known = summary.expected_accuracy
    assert known.low <= known.value <= known.high
    assert known.value == pytest.approx(sum(right) / len(right), abs=0.3)


def test_a_calibration_of_other_weights_or_strategies_is_left_aside(user, calibrated, tmp_path):
    weights, found = calibrated
    field = user.folder / 'field'
    summary = predict(user.config, weights, field, tmp_path / 'a.csv', strategy=['adabn'])
    assert not summary.calibrated and any('left aside' in note for note in summary.notes)
    values = json.loads(found.path.read_text())
    values['checkpoint'] = 'another'
    other = tmp_path / 'other.json'
    other.write_text(json.dumps(values))
    with pytest.raises(ValueError, match='of other weights'):
        predict(user.config, weights, field, tmp_path / 'b.csv', calibration=other)


def test_without_labels_or_target_it_says_what_is_missing(user, tmp_path):
    with pytest.raises(ValueError, match='--target'):
        calibrate(user.config, user.weights, strategy=['adabn'])
    from mmengine.config import Config

    cfg = Config.fromfile(user.config)
    cfg.val_dataloader.dataset.update(data_root=str(user.folder / 'field'), with_label=False)
    with pytest.raises(ValueError, match='30 labelled validation images'):
        calibrate(cfg, user.weights, out=tmp_path / 'x.json')
    assert not (tmp_path / 'x.json').exists()
