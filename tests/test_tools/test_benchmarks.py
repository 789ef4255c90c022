"""The benchmarks run, small, and their counts are exact; times depend on the machine."""

from __future__ import annotations

import json
from pathlib import Path

from tests.forked import run_tool

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'


def run(name, *arguments):
    code, said = run_tool(BENCHMARKS / name, *arguments)
    assert code == 0, said[-2000:]
    return said


def test_optimizer_step(tmp_path):
    out = tmp_path / 'steps.json'
    run('optimizer_step.py', '--widths', '24', '--steps', '2', '--out', str(out))
    (result,) = json.loads(out.read_text())['results']
    groups = {name: row['groups'] for name, row in result['constructors'].items()}
    # 14 layers, each with and without weight decay, and the last norm, which has the head's depth
    # but isn't multiplied as the head is, against one group for each tensor.
    assert groups == {
        'LayerwiseLROptimWrapperConstructor': 29,
        'LearningRateDecayOptimWrapperConstructor': 152,
    }
    assert result['ratio'] > 0


def test_frozen_savings(tmp_path):
    out = tmp_path / 'savings.json'
    run(
        'frozen_savings.py',
        '--width',
        '24',
        '--steps',
        '1',
        '--batch-size',
        '1',
        '--frozen',
        '7',
        '--out',
        str(out),
    )
    (row,) = json.loads(out.read_text())['rows']
    ours, usual = (
        row['ways'][way]['bytes_per_step'] for way in ('set_trainable', 'find_unused_parameters')
    )
    assert usual == 4 * row['weights']
    assert ours == 4 * (row['weights'] - row['frozen_weights']) < usual


def test_adaptation_step(tmp_path):
    out = tmp_path / 'step.json'
    run(
        'adaptation_step.py',
        '--model',
        'test_efficientnet',
        '--size',
        '32',
        '--batch-size',
        '4',
        '--steps',
        '1',
        '--tllib',
        str(tmp_path),
        '--out',
        str(out),
    )
    result = json.loads(out.read_text())
    assert result['ratios']['dann / source_only'] > 0
    assert result['ratios']['dann / tllib'] is None
    assert "No module named 'tllib'" in result['tllib_missing']
