"""From a command line to a table of predictions: calibrate, then predict."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from pathlib import Path

from tests.test_apis.conftest import user  # noqa: F401  (a fixture)

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


def run(monkeypatch, capsys, name, *arguments):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    monkeypatch.setattr(sys, 'path', [str(TOOLS), *sys.path])
    runpy.run_path(str(TOOLS / name), run_name='__main__')
    return capsys.readouterr().out


def test_calibrate_then_predict(user, tmp_path, monkeypatch, capsys):  # noqa: F811
    weights = tmp_path / 'model.pth'
    weights.write_bytes(user.weights.read_bytes())
    said = run(monkeypatch, capsys, 'calibrate.py', user.config, weights)
    assert 'Temperature: ' in said and 'model.calibration.json' in said
    out = tmp_path / 'found.csv'
    arguments = [user.config, weights, user.folder / 'field' / '**' / '*.png', '--out', out]
    arguments += ['--top-k', 1, '--to-label', 5, '--workers', 1, '--batch-size', 16]
    said = run(monkeypatch, capsys, 'predict.py', *arguments)
    assert '40 images, 0 unreadable' in said and 'Expected accuracy: ' in said
    with out.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and 'prediction_2' not in rows[0]
    assert {row['sure'] for row in rows} <= {'yes', 'no'}
    values = json.loads((tmp_path / 'found.summary.json').read_text())
    assert values['to_label'] == 5 and values['calibrated']
    assert (tmp_path / 'found.html').is_file() and (tmp_path / 'found.to_label.csv').is_file()
