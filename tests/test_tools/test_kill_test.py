"""The kill test, short: a process killed while it writes a checkpoint loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.forked import run_tool

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'kill_test.py'


def test_two_kills(tmp_path):
    out = tmp_path / 'kills.json'
    arguments = ['--kills', 2, '--strategies', 'gradual_unfreeze', '--seed', 1]
    code, said = run_tool(TOOL, *arguments, '--out', out)
    assert code == 0, said[-2000:]
    result = json.loads(out.read_text())
    assert (result['kills'], result['bit_equal'], result['unreadable_files']) == (2, 2, 0)
    assert result['during_write'] >= 1
    assert all(trial['tensors'] > 400 for trial in result['trials'])
