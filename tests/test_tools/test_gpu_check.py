"""The check of a GPU: what it counts, what it asks of a ratio, and what it takes along."""

from __future__ import annotations

import sys

import pytest
import torch

from tl_plugin.strategies import configs_dir

sys.path.insert(0, str(configs_dir().parent / 'tools' / 'benchmarks'))
import gpu_check

REPORT = """<testsuites><testsuite>
<testcase name="one"/><testcase name="two"><failure>no</failure></testcase>
<testcase name="three"><skipped/></testcase><testcase name="four"><error>no</error></testcase>
</testsuite></testsuites>"""


def test_tests_are_counted_by_how_they_ended(tmp_path):
    report = tmp_path / 'tests.xml'
    assert gpu_check.count(report)['failed'] == 1
    report.write_text(REPORT)
    expected = dict(passed=1, failed=2, skipped=1, failures=['two', 'four'])
    assert gpu_check.count(report) == expected


def test_a_ratio_is_held_against_its_goal():
    lines = [
        dict(what='step of dann, against source-only', ratio=1.2, ratio_in_turn=1.01),
        dict(what='step of dann, against the naive recipe', ratio=0.9),
        dict(what='something else', ratio=3.0),
    ]
    goals = {'against source-only': 1.03, 'the naive': 0.6}
    found = gpu_check.lines_of('naive_dann', dict(lines=lines), goals)
    assert [line.get('reached') for line in found] == [True, False, None]
    assert [line.get('goal') for line in found] == [1.03, 0.6, None]


def test_every_goal_names_a_line_that_its_benchmark_prints():
    for script, _, _, goals in gpu_check.PARTS.values():
        text = (gpu_check.FOLDER / f'{script}.py').read_text()
        assert all(pattern in text for pattern in goals), script


def test_wheels_are_those_of_everything_but_torch():
    wanted = gpu_check.needed('mmpretrain-tl-plugin', ('test',))
    assert {'numpy', 'pytest', 'scipy', 'rich'} <= wanted.keys()
    assert not {'torch', 'torchvision', 'timm', 'triton'} & wanted.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_how_to_try(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py'])
    with pytest.raises(SystemExit, match='no GPU here; --dry-run'):
        gpu_check.main()


@pytest.mark.slow
def test_a_dry_run_does_all_of_it(tmp_path, monkeypatch):
    out = tmp_path / 'gpu.json'
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--dry-run', '--out', str(out)])
    assert gpu_check.main() == 0
