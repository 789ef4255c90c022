"""The tools as a user calls them: in their own processes, from another folder, on two processes."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.forked import run_tool
from tests.toy import loader, toy_config

ROOT = Path(__file__).resolve().parents[2]


def run(*command, cwd, **env):
    """Runs a command of the user's and returns what it said."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env}
    if command[0] == sys.executable:
        code, said = run_tool(*command[1:], cwd=cwd, env=env)
        assert code == 0, said
        return said
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with a config in it, and a run of `train.py` with a strategy."""
    folder = tmp_path_factory.mktemp('user folder')
    cfg = toy_config(folder, max_epochs=1)
    cfg.pop('work_dir')
    cfg.custom_imports = dict(imports=['tests.toy'])
    # An odd number of images: two processes get a padded share, which must not count twice.
    cfg.test_dataloader = cfg.val_dataloader = loader(shuffle=False, size=13, batch_size=3)
    cfg.dump(folder / 'toy.py')
    run(
        sys.executable,
        ROOT / 'tools' / 'train.py',
        'toy.py',
        '--strategy',
        'feature_extraction',
        cwd=folder,
    )
    return folder


def test_train_writes_into_the_folder_of_config_and_strategy(folder):
    work_dir = folder / 'work_dirs' / 'toy_feature_extraction'
    assert (work_dir / 'epoch_1.pth').is_file()
    assert 'FreezeHook' in (work_dir / 'toy.py').read_text()


def test_the_tools_of_a_checkout_use_the_package_beside_them(tmp_path):
    for name in ('tools', 'tl_plugin'):
        ignored = shutil.ignore_patterns('__pycache__', '.mim')
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / 'tl_plugin' / '__init__.py').write_text('raise SystemExit("the copy was used")')
    command = [sys.executable, str(tmp_path / 'tools' / 'train.py'), '--help']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert 'the copy was used' in result.stderr


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_a_missing_package_is_named_by_the_tools(tool, tmp_path):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text('raise ImportError("too early")')
    (tmp_path / 'mmengine' / 'version.py').write_text("__version__ = '0.1'")
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    command = [sys.executable, str(ROOT / 'tools' / tool), '--help']
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode != 0 and 'found 0.1' in result.stderr
    assert re.search('-m pip install "(onedl-)?mmengine', result.stderr)
    assert 'too early' not in result.stderr


def test_two_processes_measure_what_one_measures(folder):
    checkpoint = folder / 'work_dirs' / 'toy_feature_extraction' / 'epoch_1.pth'
    arguments = ['--work-dir', 'tested', '--out-item', 'metrics', '--out']
    run(
        sys.executable,
        ROOT / 'tools' / 'test.py',
        'toy.py',
        checkpoint,
        *arguments,
        'alone/metrics.json',
        cwd=folder,
    )
    output = run(
        'bash',
        ROOT / 'tools' / 'dist_test.sh',
        'toy.py',
        checkpoint,
        2,
        *arguments,
        'together/metrics.json',
        '--cfg-options',
        'log_level=INFO',
        cwd=folder,
    )
    alone = json.loads((folder / 'alone' / 'metrics.json').read_text())
    together = json.loads((folder / 'together' / 'metrics.json').read_text())
    assert alone == together and 'accuracy/top1' in alone
    assert 'Distributed launcher: pytorch' in output


def test_predictions_of_all_images_are_written(folder):
    checkpoint = folder / 'work_dirs' / 'toy_feature_extraction' / 'epoch_1.pth'
    run(
        sys.executable,
        ROOT / 'tools' / 'test.py',
        'toy.py',
        checkpoint,
        '--work-dir',
        'tested',
        '--tta',
        '--out',
        'predictions.pkl',
        cwd=folder,
    )
    with open(folder / 'predictions.pkl', 'rb') as file:
        predictions = pickle.load(file)
    assert len(predictions) == 13 and 'pred_score' in predictions[0]


def test_two_processes_train_on_cpus_without_a_seed(folder):
    """A journey resumes them."""
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', 'toy.py', 2, '--work-dir', 'two']
    output = run(*command, '--cfg-options', 'randomness.seed=None', 'log_level=INFO', cwd=folder)
    assert 'accuracy/top1' in output
    checkpoint = torch.load(folder / 'two' / 'epoch_1.pth')
    # 12 images on 2 processes, 4 a batch: 2 iterations an epoch, where one process needs 3.
    assert checkpoint['meta']['iter'] == 2
    assert not any(name.startswith('module.') for name in checkpoint['state_dict'])


def test_a_failing_process_fails_the_run(folder):
    command = ['bash', str(ROOT / 'tools' / 'dist_train.sh'), 'toy.py', '1']
    options = ['--cfg-options', 'model.head.in_channels=63']
    env = {**os.environ, 'PYTHON': sys.executable}
    result = subprocess.run(
        [*command, *options], cwd=folder, env=env, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert '63' in result.stdout + result.stderr


@pytest.mark.parametrize(
    'arguments',
    [
        ['dist_train.sh'],
        ['dist_train.sh', 'toy.py'],
        ['dist_test.sh', 'toy.py', 'epoch_1.pth'],
        ['slurm_train.sh', 'part', 'job', 'toy.py'],
        ['slurm_test.sh'],
    ],
)
def test_scripts_say_how_they_are_used(arguments):
    command = ['bash', str(ROOT / 'tools' / arguments[0]), *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and 'usage: bash tools/' in result.stderr


def _stub(folder: Path, name: str) -> str:
    """A program that prints its arguments, one a line; returns a PATH that has it first."""
    folder.mkdir()
    script = '#!/bin/bash\nprintf "%s\\n" "$@"\necho "threads=${OMP_NUM_THREADS:-}"\n'
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return f'{folder}{os.pathsep}{os.environ["PATH"]}'


def test_several_machines_meet_where_the_variables_say(tmp_path):
    path = _stub(tmp_path / 'bin', 'python')
    output = run(
        'bash',
        ROOT / 'tools' / 'dist_train.sh',
        'a config.py',
        4,
        '--amp',
        cwd=tmp_path,
        PATH=path,
        PYTHON='python',
        OMP_NUM_THREADS='3',
        NNODES='2',
        NODE_RANK='1',
        MASTER_ADDR='10.0.0.1',
        PORT='1234',
    )
    assert output.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=2',
        '--node_rank=1',
        '--master_addr=10.0.0.1',
        '--master_port=1234',
        '--nproc_per_node=4',
        '--max_restarts=0',
        str(ROOT / 'tools' / 'train.py'),
        'a config.py',
        '--launcher',
        'pytorch',
        '--amp',
        'threads=3',
    ]


@pytest.mark.parametrize(('tool', 'option'), [('train', '--work-dir'), ('test', None)])
def test_slurm_gets_what_openmmlab_gives_it(tool, option, tmp_path):
    path = _stub(tmp_path / 'bin', 'srun')
    output = run(
        'bash',
        ROOT / 'tools' / f'slurm_{tool}.sh',
        'part',
        'job',
        'a.py',
        'fourth',
        '--amp',
        cwd=tmp_path,
        PATH=path,
        PYTHON='python',
        GPUS='16',
        GPUS_PER_NODE='4',
        CPUS_PER_TASK='2',
        SRUN_ARGS='--quotatype=spot --exclusive',
    )
    lines = output[: output.index('\nthreads=')].splitlines()
    assert lines[:8] == [
        '-p',
        'part',
        '--job-name=job',
        '--gres=gpu:4',
        '--ntasks=16',
        '--ntasks-per-node=4',
        '--cpus-per-task=2',
        '--kill-on-bad-exit=1',
    ]
    assert lines[8:12] == ['--quotatype=spot', '--exclusive', 'python', '-u']
    arguments = [str(ROOT / 'tools' / f'{tool}.py'), 'a.py', option, 'fourth']
    assert lines[12:] == [*filter(None, arguments), '--launcher', 'slurm', '--amp']


@pytest.mark.parametrize(
    ('tool', 'arguments', 'option', 'name'),
    [
        ('diagnose.py', ['--source', 'none', '--target', 'none'], '--work-dir', ''),
        ('diagnose.py', ['--reference', 'none', '--target', 'none'], '--work-dir', ''),
        ('check_labels.py', ['none'], '--work-dir', ''),
        ('test.py', ['none.py', 'none.pth'], '--out', 'results.pkl'),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_read(
    tool, arguments, option, name, tmp_path
):
    (tmp_path / 'file').touch()
    place = tmp_path / 'file' / 'folder'
    code, said = run_tool(ROOT / 'tools' / tool, *arguments, option, place / name, cwd=tmp_path)
    assert code == 2 and f"error: [Errno 20] Not a directory: '{place}'" in said, said
