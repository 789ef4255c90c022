"""A step finds the memory of the last one, where a model trains on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tl_plugin.reliability.resumable_loops import keep_freed_memory

# Trains a toy, then asks for a block, again and again, that glibc would give back in between.
FAULTS = """
import resource, sys, torch
from tests.toy import toy_config, train
cfg = toy_config(sys.argv[1], max_epochs=1)
cfg.custom_hooks = [dict(type='tl_plugin.reliability.ExactResumeHook')]
train(cfg)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print('faults', min(faults() for _ in range(5)))
"""


def page_faults(folder, **environment):
    done = subprocess.run(
        [sys.executable, '-c', FAULTS, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), **environment},
    )
    return int(done.stdout.split('faults ')[1].split()[0])


@pytest.mark.skipif(sys.platform != 'linux', reason='about the C library of Linux')
def test_a_train_loop_keeps_large_blocks(tmp_path):
    assert page_faults(tmp_path) < 100


@pytest.mark.skipif(sys.platform != 'linux', reason='about the C library of Linux')
def test_a_setting_of_the_user_stays(tmp_path):
    assert page_faults(tmp_path, MALLOC_MMAP_THRESHOLD_=str(2**20)) > 10_000


def test_models_on_a_gpu_are_none_of_its_business():
    assert not keep_freed_memory(nn.Linear(2, 2, device=torch.device('meta')))
