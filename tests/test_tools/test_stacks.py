"""Environments of both stacks are tested once each, and what doesn't install is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import conftest, stacks
from tests.test_rooms import FLOORS

GOOD = dict(
    stack='openmmlab',
    python='3.11.7',
    versions='newest',
    suite='whole',
    commit='abc',
    modules=dict.fromkeys(stacks.SHOWN, '1.0'),
    passed=1234,
    skipped=2,
    failed=[],
)


def test_the_table_of_the_readme_is_that_of_the_results():
    readme = stacks.README.read_text(encoding='utf-8')
    _, shown = readme.split(stacks.BEGIN)
    assert shown.partition(stacks.END)[0] == stacks.table(json.loads(stacks.RESULTS.read_text()))


def test_the_subset_touches_every_room_and_names_what_exists():
    for name in conftest.STACK_SUBSET:
        path, _, test = name.partition('::')
        path = conftest.HERE / path
        assert path.exists() and (not test or f'def {test}(' in path.read_text()), name
    touched = {name.split('/')[0].partition('.')[0] for name in conftest.STACK_SUBSET}
    rooms = {room.split('.')[0] for floor in FLOORS for room in floor}
    tested = {room for room in rooms if (conftest.HERE / f'test_{room}').is_dir()}
    assert len(tested) > 9 and {f'test_{room}' for room in tested} <= touched


def test_the_oldest_versions_are_those_that_are_named():
    pins = dict(line.split('==') for line in stacks.oldest('onedl'))
    assert pins['torch'] == '2.6' and 'setuptools' not in pins
    assert {'onedl-mmengine', 'onedl-mmpretrain', 'mmcv-lite', 'numpy'} <= set(pins)
    assert {'mmengine', 'mmpretrain'} <= {
        line.split('==')[0] for line in stacks.oldest('openmmlab')
    }


def test_pips_reason_is_given():
    text = """
Collecting x
ERROR: Cannot install a and b because these package versions have conflicting dependencies.
    a 1 depends on numpy<2
    The user requested (constraint) numpy==2
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io
"""
    assert stacks.reason(text).startswith('ERROR: Cannot install a and b')
    assert 'The user requested (constraint) numpy==2' in stacks.reason(text)


def test_tests_are_counted(tmp_path):
    (tmp_path / 'test_it.py').write_text(
        'import pytest\n'
        'def test_good(): pass\n'
        'def test_bad(): assert 0\n'
        'def test_left_out(): pytest.skip("no")\n'
        '@pytest.fixture\ndef broken(): assert 0\n'
        'def test_never(broken): pass\n'
    )
    report = tmp_path / 'report.xml'
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        f'--junitxml={report}',
    ]
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, capture_output=True)
    row = stacks.count(report)
    assert row == dict(passed=1, skipped=1, failed=['test_it::test_bad', 'test_it::test_never'])
    assert stacks.outcome(row) == '1 passed, **2 failed**, 1 skipped'


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command in a folder of its own, with what it makes of an environment stubbed."""
    monkeypatch.setattr(stacks, 'RESULTS', tmp_path / 'stacks.json')
    monkeypatch.setattr(stacks, 'README', tmp_path / 'README.md')
    # Where these tests run in one of the environments, it would be removed under them.
    monkeypatch.setattr(stacks, 'ENVIRONMENTS_FOLDER', tmp_path / 'stacks')
    stacks.README.write_text(f'before\n{stacks.BEGIN}old{stacks.END}\nafter\n')
    made = []

    def make(environment, folder, log):
        made.append(environment.name)
        raise stacks.Unfit(f'there is no Python {environment.python} here')

    monkeypatch.setattr(stacks, 'make', make)

    def call(*arguments):
        made.clear()
        monkeypatch.setattr(sys, 'argv', ['test_stacks.sh', *arguments])
        with pytest.raises(SystemExit) as ended:
            stacks.main()
        return ended.value.code, list(made)

    return call


def test_an_environment_that_is_done_is_kept(run, capsys):
    name = stacks.ENVIRONMENTS[1].name
    stacks.RESULTS.write_text(json.dumps({name: dict(GOOD)}))
    code, made = run()
    assert code == 0 and name not in made and len(made) == len(stacks.ENVIRONMENTS) - 1
    assert run() == (0, [])
    assert run(name) == (0, [name])
    readme = stacks.README.read_text()
    assert readme.startswith('before\n') and readme.endswith(f'{stacks.END}\nafter\n')
    assert 'old' not in readme.replace('oldest', '') and readme.count('no Python 3.9 here') == 2
    code, made = run('other')
    assert code == 2 and name in capsys.readouterr().err


def test_a_python_is_found_by_its_version():
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    found = stacks.find_python(version)
    assert found is None or stacks.ask(found, 'import sys; print(sys.version)').startswith(version)
    assert stacks.find_python('3.1') is None
