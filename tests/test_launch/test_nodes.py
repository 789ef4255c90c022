"""Runs on several nodes, each a launcher of its own here, and what DDP can be told to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tests.distributed import run_distributed
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_config
from tl_plugin.launch.cluster import set_variables
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = ['dann', 'gradual_unfreeze']
#: Starts what it is given once a node, as slurm's own does, with the variables that slurm sets.
SRUN = r"""#!/bin/bash
while [ $# -gt 0 ]; do
    case $1 in
        -p) shift 2 ;;
        --ntasks=*) tasks=${1#*=}; shift ;;
        --ntasks-per-node=*) per_node=${1#*=}; shift ;;
        -*) shift ;;
        *) break ;;
    esac
done
export SLURM_JOB_ID=$JOB SLURM_NTASKS=$tasks SLURM_NODELIST='localhost,127.0.0.1'
for ((rank = 0; rank < tasks; rank++)); do
    SLURM_PROCID=$rank SLURM_LOCALID=$((rank % per_node)) SLURM_NODEID=$((rank / per_node)) "$@" &
    pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || { code=$?; kill "${pids[@]}" 2>/dev/null; }; done
exit $code
"""


def options(batch_size):
    """Single settings: both domains, three steps of unfreezing, batches that the ranks share."""
    return {
        'train_dataloader.batch_size': batch_size,
        'train_cfg.target_dataloader.dataset.seed': 1,
        'custom_hooks.GradualUnfreezeHook.warmup_iters': 1,
        'custom_hooks.GradualUnfreezeHook.check_ranks': True,
        # Summed over the images of a rank alone, a batch norm would see other batches.
        'model.alignments.dann.norm': None,
        'model.alignments.dann.hidden_channels': [16],
    }


def prepared(config, work_dir, batch_size, launcher='none', **changes):
    cfg = load_config(config, STRATEGIES, {**options(batch_size), **changes})
    return prepare(cfg, work_dir=str(work_dir), launcher=launcher)


def train(*arguments, **changes):
    runner = build_runner(prepared(*arguments, **changes))
    runner.train()
    return state_of(runner.model)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The config of a run of 8 iterations without batch norm, as a file."""
    # Adam would make much of rounding where a gradient is nearly zero.
    optimizer = dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9)
    changes = dict(train_cfg=dict(max_epochs=2), optim_wrapper=dict(optimizer=optimizer))
    cfg = tiny_config(tmp_path_factory.mktemp('config'), TINY_VIT, **changes)
    for key in ('work_dir', 'experiment_name', 'env_cfg'):
        cfg.pop(key)
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
        cfg[key] = None
    cfg.custom_imports = dict(imports=['tests.tiny_runs'], allow_failed_imports=False)
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def one_process(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp('alone'), 16)


#: What a config may tell DDP -> its wrapper; the first is how a run is wrapped by default.
WRAPPERS = {
    'default': {},
    'unused': dict(find_unused_parameters=True),
    'static': dict(static_graph=True),
    'views': dict(gradient_as_bucket_view=True),
    'all': dict(find_unused_parameters=True, static_graph=True, gradient_as_bucket_view=True),
}


def train_wrapped(config, work_dir):
    """Train with each wrapper; return the weights of each."""
    found = {}
    for name, wrapper in WRAPPERS.items():
        model_wrapper = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False, **wrapper}
        changes = dict(model_wrapper_cfg=model_wrapper) if wrapper else {}
        found[name] = train(config, f'{work_dir}/{name}', 8, launcher='pytorch', **changes)
    return found


@pytest.fixture(scope='module')
def one_node(config, tmp_path_factory):
    """Weights of either of two processes of one launcher, for each wrapper."""
    return run_distributed(train_wrapped, str(config), str(tmp_path_factory.mktemp('node')))


def check_equal(found, expected, atol=0.0):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


def test_what_is_compared_has_trained(config, one_process, tmp_path):
    begun = build_runner(prepared(config, tmp_path, 16)).model.state_dict()
    deepest = [name for name in begun if name.startswith(('backbone.patch_embed', 'alignments'))]
    moved = [name for name in deepest if not torch.equal(one_process[name], begun[name])]
    assert {name.split('.')[0] for name in moved} == {'backbone', 'alignments'}


@pytest.mark.parametrize('name', WRAPPERS)
def test_two_processes_equal_one_however_ddp_is_told_to_work(one_node, one_process, name):
    first, second = one_node
    check_equal(first[name], second[name])
    check_equal(first[name], one_process, atol=1e-5)


def written(options):
    return [f'{key}={value}' for key, value in options.items()]


def start(command, folder, **environment):
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'PYTHONPATH': str(ROOT),
            'OMP_NUM_THREADS': '1',
            'CUDA_VISIBLE_DEVICES': '',
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def last_weights(folder):
    return torch.load(folder / 'epoch_2.pth', weights_only=True)['state_dict']


def test_two_nodes_equal_one_to_the_bit(config, one_node, tmp_path):
    """As a user starts them: `dist_train.sh` once a machine, NODE_RANK alone differs."""
    with socket.socket() as free:
        free.bind(('', 0))
        port = free.getsockname()[1]
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', config, 1, '--strategy', *STRATEGIES]
    command += ['--work-dir', 'nodes', '--cfg-options', *written(options(8))]
    meet = dict(NNODES='2', MASTER_ADDR='localhost', PORT=str(port))
    nodes = [start(command, tmp_path, NODE_RANK=str(rank), **meet) for rank in range(2)]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    check_equal(last_weights(tmp_path / 'nodes'), one_node[0]['default'])
    written_config = Config.fromfile(tmp_path / 'nodes' / 'tiny.py')
    assert written_config.launcher == 'none'


def test_slurm_starts_the_same_run(config, one_node, tmp_path):
    (tmp_path / 'bin').mkdir()
    stub = tmp_path / 'bin' / 'srun'
    stub.write_text(SRUN)
    stub.chmod(0o755)
    command = ['bash', ROOT / 'tools' / 'slurm_train.sh', 'cpus', 'job', config, 'slurm']
    command += ['--strategy', *STRATEGIES, '--cfg-options', *written(options(8))]
    path = f'{stub.parent}{os.pathsep}{os.environ["PATH"]}'
    run = start(command, tmp_path, PATH=path, JOB=str(os.getpid()), GPUS='2', GPUS_PER_NODE='1')
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    check_equal(last_weights(tmp_path / 'slurm'), one_node[0]['default'])


@pytest.mark.parametrize(
    ('nodes', 'address', 'said'),
    [
        ('node7', 'node7', None),
        ('node7,node9', 'node7', None),
        ('node[07-09]', None, 'set MASTER_ADDR'),
        ('', None, 'set MASTER_ADDR'),
    ],
)
def test_the_first_node_of_a_job(monkeypatch, nodes, address, said):
    monkeypatch.setattr(os, 'environ', dict(PATH=''))
    os.environ.update(SLURM_PROCID='3', SLURM_NTASKS='4', SLURM_LOCALID='1', SLURM_NODELIST=nodes)
    os.environ.update(SLURM_JOB_ID='123456')
    if said:
        with pytest.raises(ValueError, match=said):
            set_variables('slurm')
        return
    set_variables('slurm')
    found = {name: os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')}
    assert found == dict(RANK='3', WORLD_SIZE='4', LOCAL_RANK='1')
    assert os.environ['MASTER_ADDR'] == address
    first = os.environ.pop('MASTER_PORT')
    os.environ['SLURM_JOB_ID'] = '123457'
    set_variables('slurm')
    assert os.environ['MASTER_PORT'] != first


SYNCHRONISED = (
    dict(sync_bn='torch'),
    {'model.backbone.norm_cfg': dict(type='SyncBN', requires_grad=True)},
)


def build_synchronised(config, work_dir):
    found = []
    for changes in SYNCHRONISED:
        cfg = load_config(config, (), changes)
        with pytest.raises(ValueError) as error:
            build_runner(prepare(cfg, work_dir=work_dir, launcher='pytorch'))
        found.append(str(error.value))
    return found


def test_synchronised_batch_norms_are_refused_on_cpus(tmp_path):
    cfg = tiny_config(tmp_path, TINY_RESNET)
    path = tmp_path / 'resnet.py'
    cfg.custom_imports = dict(imports=['tests.tiny_runs'], allow_failed_imports=False)
    cfg.dump(path)
    for said in run_distributed(build_synchronised, str(path), str(tmp_path))[1]:
        assert 'SyncBatchNorm' in said and 'leave out sync_bn' in said
