"""The kill test, short: a process killed while it writes a checkpoint loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'kill_test.py'


def test_two_kills(tmp_path):
    out = tmp_path / 'kills.json'
    command = [
        sys.executable,
        str(TOOL),
        '--kills',
        '2',
        '--strategies',
        'gradual_unfreeze',
        '--seed',
        '1',
        '--out',
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert (result['kills'], result['bit_equal'], result['unreadable_files']) == (2, 2, 0)
    assert result['during_write'] >= 1
    assert all(trial['tensors'] > 400 for trial in result['trials'])
