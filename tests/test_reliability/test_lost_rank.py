"""When a process dies the others end, and the restarted run ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.distributed import run_distributed
from tl_plugin.reliability.ranks import naming_lost_ranks

ROOT = Path(__file__).parents[2]


def _lose_a_rank() -> tuple:
    import torch.distributed as dist

    if dist.get_rank() == 1:
        # Its connections close, as when it is killed.
        dist.destroy_process_group()
        dist.init_process_group('gloo', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)
        return None, 0.0
    began = time.monotonic()
    try:
        with naming_lost_ranks():
            for _ in range(100):
                dist.all_reduce(torch.ones(1))
    except RuntimeError as error:
        message = str(error)
    dist.destroy_process_group()
    dist.init_process_group('gloo', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)
    return message, time.monotonic() - began


def test_the_others_end_soon_and_say_why():
    (message, seconds), _ = run_distributed(_lose_a_rank)
    assert 'rank 0 lost contact with another of the 2 processes' in message
    assert '--resume' in message
    assert seconds < 30


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match='timed out'), naming_lost_ranks():
        raise RuntimeError('a download timed out')  # in a single process it is nobody's death


KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

@HOOKS.register_module()
class KillRank(Hook):
    priority = 'LOWEST'

    def __init__(self, flag):
        self.flag = flag

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank == 1 and runner.iter == 5 and not os.path.exists(self.flag):
            open(self.flag, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
"""

CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['tl_plugin', 'killer'], allow_failed_imports=False)
custom_hooks = [dict(type='KillRank', flag={flag!r})]
model = dict(backbone=dict(stem_channels=4, base_channels=4), head=dict(in_channels=32))
train_dataloader = dict(batch_size=8, dataset=dict(indices=64))
val_cfg = val_dataloader = val_evaluator = None
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False))
randomness = dict(seed=0)
"""


def _run(folder: Path, flag: Path, restarts: int) -> subprocess.CompletedProcess:
    folder.mkdir()
    (folder / 'killer.py').write_text(KILLER)
    base = str(ROOT / 'configs' / 'digits' / 'source_only.py')
    (folder / 'config.py').write_text(CONFIG.format(base=base, flag=str(flag)))
    environment = {
        **os.environ,
        'PYTHONPATH': f'{ROOT}:{folder}',
        'PYTHON': sys.executable,
        'MAX_RESTARTS': str(restarts),
        'CUDA_VISIBLE_DEVICES': '',
    }
    command = [
        'bash',
        str(ROOT / 'tools' / 'dist_train.sh'),
        str(folder / 'config.py'),
        '2',
        '--work-dir',
        str(folder / 'run'),
        '--resume',
        '--no-validate',
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False
    )


def _weights(folder: Path) -> dict:
    return torch.load((folder / 'run' / 'last_checkpoint').read_text(), weights_only=True)[
        'state_dict'
    ]


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_and_it_ends_the_same(tmp_path):
    (tmp_path / 'never').touch()
    whole = _run(tmp_path / 'whole', tmp_path / 'never', 0)
    assert whole.returncode == 0, whole.stderr[-3000:]
    restarted = _run(tmp_path / 'killed', tmp_path / 'flag', 1)
    assert restarted.returncode == 0, restarted.stderr[-3000:]
    assert (tmp_path / 'flag').exists()
    assert 'Resuming from' in restarted.stdout + restarted.stderr
    first, second = _weights(tmp_path / 'whole'), _weights(tmp_path / 'killed')
    names = [name for name in first if 'running' not in name]
    assert all(torch.equal(first[name], second[name]) for name in names)
