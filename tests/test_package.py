"""What pip builds holds everything, from a checkout, again and again, and from an sdist."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.test_ladder.conftest import TINY
from tl_plugin.launch import console

ROOT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns('__pycache__', '*.pyc', '.mim', '*.egg-info')


def python(*arguments, cwd, path=''):
    """Runs Python in a folder, with ``path`` before everything that is installed."""
    env = {**os.environ, 'PYTHONPATH': str(path)}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(what, checkout, target):
    """Calls the hook of PEP 517 that pip calls, and returns the file it made."""
    code = f'from setuptools import build_meta; print(build_meta.build_{what}({str(target)!r}))'
    return target / python('-c', code, cwd=checkout).splitlines()[-1]


def names(wheel):
    return sorted(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    """A copy of the checkout, so that building leaves nothing in the real one."""
    folder = tmp_path_factory.mktemp('a checkout')
    for name in ('tl_plugin', 'configs', 'tools'):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix != '.log':
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
    """The second wheel out of one checkout, of which a module and a config have gone since."""
    target = tmp_path_factory.mktemp('wheels')
    gone = [checkout / 'tl_plugin' / 'gone.py', checkout / 'configs' / 'strategies' / 'gone.py']
    for path in gone:
        path.touch()
    assert [name for name in names(build('wheel', checkout, target)) if 'gone' in name] == [
        'tl_plugin/.mim/configs/strategies/gone.py',
        'tl_plugin/gone.py',
    ]
    for path in gone:
        path.unlink()
    return build('wheel', checkout, target)


def test_a_wheel_holds_all_modules_configs_and_tools_and_nothing_old(checkout, wheel):
    expected = {'tl_plugin/.mim/model-index.yml'}
    for folder, prefix in (('tl_plugin', ''), ('configs', '.mim'), ('tools', '.mim')):
        for path in (checkout / folder).rglob('*'):
            if path.is_file() and '.mim' not in path.parts and path.suffix != '.pyc':
                inside = Path('tl_plugin', prefix) if prefix else Path()
                expected.add((inside / path.relative_to(checkout)).as_posix())
    found = {name for name in names(wheel) if '.dist-info/' not in name}
    assert found == expected


def test_an_sdist_builds_the_same_wheel(checkout, wheel, tmp_path):
    archive = build('sdist', checkout, tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert names(build('wheel', unpacked, tmp_path)) == names(wheel)


def test_metadata_is_honest(wheel):
    (name,) = [name for name in names(wheel) if name.endswith('.dist-info/METADATA')]
    metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())
    assert metadata['Name'] == 'mmpretrain-tl-plugin'
    assert metadata['License'] == 'Apache-2.0' and metadata['Requires-Python'] == '>=3.9'
    needs = metadata.get_all('Requires-Dist')
    plain = [line for line in needs if 'extra ==' not in line]
    # Either stack and either mmcv does, and pip can't know which one a user has: none of them is
    # a plain requirement, since it would be installed over the other's files.
    assert not any(line.startswith(('mm', 'onedl', 'setuptools')) for line in plain)
    for extra, first in (('openmmlab', 'mmengine'), ('onedl', 'onedl-mmengine')):
        assert any(line.startswith(first) and extra in line.split(';')[1] for line in needs)
    assert any(line.startswith('mmcv-lite') and 'lite' in line.split(';')[1] for line in needs)
    license_file = name.replace('METADATA', 'licenses/LICENSE')
    assert b'Version 2.0, January 2004' in zipfile.ZipFile(wheel).read(license_file)


USE = """
import sys
from importlib.metadata import version
from pathlib import Path
import tl_plugin
from mmengine.config import Config
from tl_plugin.launch.configs import load_config
from tl_plugin.strategies import available_strategies
assert Path(tl_plugin.__file__).parents[1] == Path(sys.argv[1]), tl_plugin.__file__
Path('mine.py').write_text("_base_ = 'tl_plugin::strategies/fine_tune.py'")
assert 'optim_wrapper' in Config.fromfile('mine.py')
cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py', ['dann'])
assert cfg.model.type == 'AdaptationClassifier'
assert {'source_only', 'feature_extraction', 'fine_tune', 'dann'} <= set(available_strategies())
"""


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """An environment with the wheel in it, which finds everything else in that of the tests."""
    folder = tmp_path_factory.mktemp('an environment')
    python('-m', 'venv', '--without-pip', folder, cwd=folder)
    (site,) = folder.glob('lib/python*/site-packages')
    # Only what is listed here is on the path, not an editable install that is there.
    others = [path for path in sys.path if path.endswith(('site-packages', 'dist-packages'))]
    (site / 'others.pth').write_text('\n'.join(others))
    options = ['-q', '--no-deps', '--no-index', '--ignore-installed', wheel]
    command = ['-m', 'pip', '--python', folder / 'bin' / 'python', 'install', *options]
    python(*command, cwd=folder)
    return folder


def call(installed, program, *arguments, cwd):
    """Runs a program of the environment and returns what it said."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    env.pop('PYTHONPATH', None)
    command = [installed / 'bin' / program, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


#: What a user types after `tl-plugin`, all in one process: importing takes longer.
WALK = """
from tl_plugin.launch import console
def typed(*words):
    try:
        console.main([*words])
    except SystemExit as ended:
        assert not ended.code, words
for command in console.TOOLS:
    typed(command, '--help')
train = 'train tiny.py --strategy feature_extraction --work-dir trained --cfg-options'
typed(*train.split(), 'train_cfg.max_epochs=1', 'param_scheduler=None')
typed(*'ladder tiny.py --rungs adabn --work-dir climbed'.split())
"""


def test_an_installed_copy_finds_its_configs_and_tools_trains_and_climbs(installed, tmp_path):
    (site,) = installed.glob('lib/python*/site-packages')
    _, _, rest = TINY.lstrip().partition('\n')
    (tmp_path / 'tiny.py').write_text(f"_base_ = 'tl_plugin::digits/ladder.py'\n{rest}")
    code = USE + 'assert version("mmpretrain-tl-plugin") == tl_plugin.__version__\n' + WALK
    shown = call(installed, 'python', '-c', code, site, cwd=tmp_path)
    for command in console.TOOLS:
        assert f'usage: tl-plugin {command} ' in shown
    assert 'source_only' in call(installed, 'tl-plugin', 'strategies', cwd=tmp_path)
    assert (tmp_path / 'trained' / 'epoch_1.pth').is_file()
    rungs = json.loads((tmp_path / 'climbed' / 'results.json').read_text())['rungs']
    assert [rung['name'] for rung in rungs] == ['source_only', 'adabn']
    assert (tmp_path / 'climbed' / 'report.html').is_file()


def test_an_editable_install_links_to_the_checkout(checkout, tmp_path):
    for _ in range(2):
        build('editable', checkout, tmp_path)
    mim = checkout / 'tl_plugin' / '.mim'
    try:
        assert (mim / 'configs').resolve() == checkout / 'configs'
        assert (mim / 'tools').resolve() == checkout / 'tools'
        python('-c', USE, checkout, cwd=tmp_path, path=checkout)
        # The links are no part of what a wheel takes from the checkout.
        listed = names(build('wheel', checkout, tmp_path))
        assert len(set(listed)) == len(listed)
    finally:
        shutil.rmtree(mim, ignore_errors=True)
