"""The scripts that install keep what is there, repair what is broken and name what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / 'tools').glob('*.sh'))
# Everything of setup_env.sh is the real thing but pip, which only notes what it was called for,
# and the import at the end, which fails as long as there is a file `broken` in the environment.
STUBS = """
install() { echo "install $1 cpu=$2"; [ ! -f "$ROOT/interrupt" ]; }
verify() { [ ! -f "$(prefix)/broken" ]; }
"""


@pytest.fixture
def checkout(tmp_path):
    """What the scripts look at in a checkout, in a folder with a space in its path."""
    folder = tmp_path / 'a checkout'
    (folder / 'tl_plugin').mkdir(parents=True)
    shutil.copytree(ROOT / 'tools', folder / 'tools')
    for name in ('setup.py', 'pyproject.toml', 'tl_plugin/_requirements.py'):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope='session')
def venv(tmp_path_factory):
    """An environment to copy: making one takes seconds."""
    folder = tmp_path_factory.mktemp('made') / '.venv'
    subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
    return folder


def bash(script, *arguments, **env):
    env = {**os.environ, **env}
    env.pop('VIRTUAL_ENV', None)
    command = ['bash', '-c', script, 'bash', *map(str, arguments)]
    return subprocess.run(command, cwd='/', env=env, capture_output=True, text=True)


def setup(checkout, *arguments, stubs=STUBS, **env):
    """Runs setup_env with pip stubbed, and says what it said and left."""
    script = f'source "$1/tools/setup_env.sh"\n{stubs}\nshift; setup_env "$@"\n'
    script += 'echo "python=$PYTHON"; printf "rest=%s\\n" ${REST[@]+"${REST[@]}"}'
    return bash(script, checkout, *arguments, **env)


def test_an_environment_is_made_once_and_kept(checkout):
    first = setup(checkout, 'lite', '--python', sys.executable, '--seeds', '0 1')
    assert first.returncode == 0, first.stderr
    assert f'Making the environment {checkout}/.venv' in first.stdout
    assert 'install lite cpu=false' in first.stdout
    assert f'python={checkout}/.venv/bin/python\nrest=--seeds\nrest=0 1\n' in first.stdout
    second = setup(checkout, 'lite', '--seeds', '0 1')
    assert 'Making' not in second.stdout and 'install ' not in second.stdout
    assert 'everything is installed' in second.stdout
    assert second.stdout.endswith(first.stdout[first.stdout.index('python=') :])


@pytest.fixture
def installed(checkout, venv):
    shutil.copytree(venv, checkout / '.venv', symlinks=True)
    first = setup(checkout, 'lite')
    assert 'install lite' in first.stdout and 'Making' not in first.stdout
    assert 'install ' not in setup(checkout, 'lite').stdout
    return checkout


def test_a_changed_setup_and_other_extras_install_again(installed):
    assert 'install lite,test' in setup(installed, 'lite,test').stdout
    with open(installed / 'setup.py', 'a') as file:
        file.write('# changed')
    assert 'install lite' in setup(installed, 'lite').stdout


def test_an_interrupted_installation_is_finished_by_the_next_call(checkout, venv):
    shutil.copytree(venv, checkout / '.venv', symlinks=True)
    (checkout / 'interrupt').touch()
    assert setup(checkout, 'lite').returncode != 0
    (checkout / 'interrupt').unlink()
    again = setup(checkout, 'lite')
    assert again.returncode == 0 and 'install lite' in again.stdout


def test_a_half_made_environment_is_made_again(checkout, venv):
    shutil.copytree(venv, checkout / '.venv', symlinks=True)
    for pip in (checkout / '.venv').glob('lib/python*/site-packages/pip'):
        shutil.rmtree(pip)
    result = setup(checkout, 'lite', '--python', sys.executable)
    assert result.returncode == 0, result.stderr
    assert 'Making the environment' in result.stdout


def test_a_damaged_environment_is_made_again(installed):
    (installed / '.venv' / 'broken').touch()
    result = setup(installed, 'lite', '--python', sys.executable)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('install lite') == 2 and 'making it again' in result.stdout
    assert not (installed / '.venv' / 'broken').exists()


def test_here_uses_the_active_environment_and_never_removes_it(checkout, venv, tmp_path):
    active = tmp_path / 'active'
    shutil.copytree(venv, active, symlinks=True)
    path = f'{active / "bin"}{os.pathsep}{os.environ["PATH"]}'
    result = setup(checkout, 'lite', '--here', '--cpu', PATH=path)
    assert f'python={active}/bin/python' in result.stdout and 'cpu=true' in result.stdout
    assert not (checkout / '.venv').exists()
    (active / 'broken').touch()
    result = setup(checkout, 'lite', '--here', PATH=path)
    assert result.returncode != 0 and 'does not work' in result.stderr
    assert (active / 'broken').exists()


def _program(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f'#!/bin/bash\n{script}\n')
    path.chmod(0o755)
    return path


def test_the_usual_torch_is_installed_where_the_builds_for_cpus_are_out_of_reach(
    checkout, tmp_path
):
    log = tmp_path / 'log'
    python = _program(tmp_path, 'python', f'echo "$*" >>"{log}"; [[ "$*" != *--index-url* ]]')
    script = f'source "$1/tools/setup_env.sh"; PYTHON="{python}" STACK=openmmlab; '
    script += 'is_there() { false; }; requirements() { echo "torch>=2.6"; }; install lite true'
    result = bash(script, checkout)
    assert 'installing the usual PyTorch' in result.stdout, result.stderr
    calls = [line for line in log.read_text().splitlines() if line.endswith(('torch>=2.6', '/cpu'))]
    assert ['--isolated' in call and '--index-url' in call for call in calls] == [True, False]


def test_a_python_that_is_too_old_is_named(checkout, tmp_path):
    old = _program(tmp_path, 'old', 'echo "Python 3.7.1"; [ "$1" = --version ]')
    for arguments in (['--python', old], [f'--python={old}'], ['--here', '--python', old]):
        result = setup(checkout, 'lite', *arguments)
        assert result.returncode == 1
        assert 'is Python 3.7.1, and Python 3.9 or newer is needed' in result.stderr
        assert '--python python3.11' in result.stderr


def test_a_missing_venv_module_is_named(checkout, tmp_path):
    script = f'[ "$1 $2" != "-m venv" ] && exec "{sys.executable}" "$@"; mkdir -p "$4"; exit 1'
    # The real interpreter would be asked past the stub, so that it has to name the stub.
    script = f'if [[ "$2" == *sys.executable* ]]; then echo "$0"; exit; fi; {script}'
    without = _program(tmp_path, 'without', script)
    result = setup(checkout, 'lite', '--python', without)
    assert result.returncode == 1
    assert 'sudo apt-get install python3-venv' in result.stderr and '--here' in result.stderr
    assert not (checkout / '.venv').exists()


def test_a_missing_python_is_named(checkout):
    result = setup(checkout, 'lite', '--python', 'python9')
    assert result.returncode == 1 and 'there is no python9 here' in result.stderr
    assert 'needs the name' in setup(checkout, 'lite', '--python').stderr


def test_an_installed_copy_is_told_from_a_checkout(checkout):
    (checkout / 'setup.py').unlink()
    result = setup(checkout, 'lite')
    assert result.returncode == 1 and 'is not a checkout' in result.stderr


PIP = """
is_there() { [[ " $THERE " == *" $1 "* ]]; }
requirements() {
    if [ "$1" = LITE ]; then echo 'mmcv-lite>=2'
    elif [ "$1" = STACKS ]; then printf '%s\\n' 'mmengine>=0.10' 'mmpretrain>=1.2'
    else printf '%s\\n' 'numpy>=1' 'torch>=2.6' 'torchvision>=0.21'; fi
}
PYTHON=pip_of
pip_of() { echo "$(printf '<%s>' "${@:5}")"; }
"""


TORCH = '<torch>=2.6><torchvision>=0.21>'


@pytest.mark.parametrize(
    ('extras', 'cpu', 'stack', 'there', 'torch', 'package'),
    [
        ('lite', 'false', 'openmmlab', '', TORCH, '[lite,openmmlab]>'),
        ('lite,test', 'false', 'openmmlab', 'mmcv', TORCH, '[test,openmmlab]>'),
        ('lite', 'false', 'openmmlab', 'mmcv', TORCH, '[openmmlab]>'),
        ('lite', 'true', 'openmmlab', '', '<torchvision>=0.21><--index-url>', '[lite,openmmlab]>'),
        ('lite,test', 'false', 'onedl', '', TORCH, '[test,onedl]>'),
        ('lite', 'false', 'onedl', 'onedl-mmcv', TORCH, '[onedl]>'),
        ('lite', 'false', 'openmmlab', 'mmengine-lite', TORCH, '>'),
        ('lite,test', 'false', 'openmmlab', 'mmengine-lite mmcv', TORCH, '[test]>'),
    ],
)
def test_each_stack_comes_with_its_own_and_a_full_mmcv_stays(
    checkout, extras, cpu, stack, there, torch, package
):
    script = f'source "$1/tools/setup_env.sh"\n{PIP}\nSTACK={stack} install {extras} {cpu}'
    result = bash(script, checkout, THERE=there)
    assert result.returncode == 0, result.stderr
    calls = [line for line in result.stdout.splitlines() if line.startswith('<')]
    assert ('<setuptools>=77.0.3,<81>' in calls[0]) == (stack == 'openmmlab')
    assert torch in calls[1]
    assert calls[-1].startswith(f'<--no-build-isolation><-e><{checkout}')
    assert calls[-1].endswith(package)
    # mmcv-lite would bring mmengine, and its files over the fork's or mmengine-lite's.
    alone = [call for call in calls if call.startswith('<--no-deps><mmcv-lite')]
    assert len(alone) == ((stack == 'onedl' and not there) or there == 'mmengine-lite')
    assert any(call.startswith('<mmpretrain>=1.2') for call in calls) == ('mmengine-lite' in there)


@pytest.mark.parametrize(
    ('there', 'flags', 'expected'),
    [
        ('', '', 'openmmlab'),
        ('', '--stack onedl', 'onedl'),
        ('', '--stack=onedl', 'onedl'),
        ('mmengine', '', 'openmmlab'),
        ('mmengine-lite', '', 'openmmlab'),
        ('onedl-mmpretrain', '', 'onedl'),
        ('onedl-mmengine mmengine', '', 'onedl'),
    ],
)
def test_the_stack_is_the_one_that_is_there(checkout, venv, there, flags, expected):
    shutil.copytree(venv, checkout / '.venv', symlinks=True)
    stubs = (
        f'{STUBS}is_there() {{ [[ " $THERE " == *" $1 "* ]]; }}\ninstall() {{ echo "of $STACK"; }}'
    )
    result = setup(checkout, 'lite', *flags.split(), stubs=stubs, THERE=there)
    assert f'of {expected}\n' in result.stdout, result.stderr


def test_one_stack_is_never_installed_over_the_other(checkout, venv):
    shutil.copytree(venv, checkout / '.venv', symlinks=True)
    stubs = f'{STUBS}is_there() {{ [[ " $THERE " == *" $1 "* ]]; }}\n'
    result = setup(checkout, 'lite', '--stack', 'onedl', stubs=stubs, THERE='mmengine')
    assert result.returncode == 1 and 'pip uninstall -y mmengine' in result.stderr
    result = setup(checkout, 'lite', '--stack', 'other', stubs=stubs, THERE='')
    assert result.returncode == 1 and 'is openmmlab or onedl, got other' in result.stderr


@pytest.mark.parametrize(
    ('script', 'expected'),
    [
        (
            'quickstart.sh',
            '-u tools/ladder.py configs/digits/ladder.py --work-dir '
            'work_dirs/quickstart --rungs adabn feature_extraction fine_tune '
            'joint_training dann self_training interpolation --seeds 0 1',
        ),
        ('run_tests.sh', '-m pytest -n auto --maxprocesses 4 --dist loadfile --seeds 0 1'),
    ],
)
def test_scripts_run_in_the_checkout_from_anywhere(checkout, script, expected):
    stub = 'setup_env() { PYTHON=says; REST=("${@:2}"); }; says() { echo 3; }; say() { :; }\n'
    stub += f'ROOT="{checkout}"; exec() {{ echo "$PWD|$OMP_NUM_THREADS|${{*:2}}"; }}\n'
    (checkout / 'tools' / 'setup_env.sh').write_text(stub)
    result = bash('bash "$1" --seeds 0 1', checkout / 'tools' / script, OMP_NUM_THREADS='2')
    assert result.stdout == f'{checkout}|2|{expected}\n', result.stderr


def test_quickstart_explains_itself_without_installing(checkout):
    result = bash('bash "$1" --help', checkout / 'tools' / 'quickstart.sh')
    assert result.returncode == 0 and '--here' in result.stdout and '--cpu' in result.stdout
    assert not (checkout / '.venv').exists()


def test_scripts_are_clean():
    shellcheck = Path(sys.executable).with_name('shellcheck')
    command = [str(shellcheck), '-x', '-P', 'SCRIPTDIR', '-P', str(ROOT), *map(str, SCRIPTS)]
    result = subprocess.run(
        [*command, str(ROOT / '.ci' / 'run')], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
