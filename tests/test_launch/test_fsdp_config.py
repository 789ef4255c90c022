"""The leaf config for FSDP, its strategy on a tiny model: two processes on CPUs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from tests.distributed import run_distributed
from tests.tiny_runs import TINY_VIT, tiny_config
from tl_plugin.launch.configs import load_config
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.strategies import configs_dir

LEAF = configs_dir() / 'class_folders' / 'vit-base-p16_fine-tune_fsdp.py'
UNFREEZE = {'custom_hooks.GradualUnfreezeHook.warmup_iters': 1}
TARGET = {'train_cfg.target_dataloader.dataset.seed': 1}


def write_configs(folder):
    """Write one run as it is and with the leaf's strategy; return both paths."""
    optimizer = dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9)
    cfg = tiny_config(folder, TINY_VIT, optim_wrapper=dict(optimizer=optimizer))
    cfg.train_cfg.max_epochs = 3
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.pop('experiment_name')
    cfg.custom_imports = dict(imports=['tests.tiny_runs'], allow_failed_imports=False)
    cfg.dump(folder / 'plain.py')
    leaf = Config.fromfile(LEAF, format_python_code=False)
    cfg.runner_type, cfg.strategy = leaf.runner_type, leaf.strategy
    cfg.strategy.model_wrapper.auto_wrap_policy.min_num_params = 1000
    cfg.dump(folder / 'fsdp.py')
    return folder / 'plain.py', folder / 'fsdp.py'


def train(config, work_dir, strategies=(), options=None, resume=None):
    cfg = load_config(config, strategies, options)
    cfg = prepare(cfg, work_dir=str(work_dir), launcher='pytorch', resume=resume)
    runner = build_runner(cfg)
    runner.train()
    return type(runner.model).__name__


def train_all(folder):
    """Train and resume both; return the wrappers and what training of pairs is refused with."""
    folder = Path(folder)
    wrappers = []
    for name in ('plain', 'fsdp'):
        wrappers.append(train(folder / f'{name}.py', folder / name))
        options = dict(UNFREEZE, load_from=str(folder / 'plain' / 'epoch_1.pth'))
        unfrozen = folder / f'{name} unfrozen'
        train(folder / f'{name}.py', unfrozen, ['gradual_unfreeze'], options)
    if torch.distributed.get_rank() == 0:
        (folder / 'resumed').mkdir()
        shutil.copy(folder / 'fsdp unfrozen' / 'epoch_1.pth', folder / 'resumed')
    torch.distributed.barrier()
    train(folder / 'fsdp.py', folder / 'resumed', ['gradual_unfreeze'], options, resume='auto')
    with pytest.raises(NotImplementedError) as refused:
        train(folder / 'fsdp.py', folder / 'refused', ['dann'], TARGET)
    return wrappers, str(refused.value)


def test_shards_train_freeze_and_resume_as_whole_models_do(tmp_path):
    write_configs(tmp_path)
    (wrappers, refused), _ = run_distributed(train_all, str(tmp_path))
    assert wrappers == ['MMDistributedDataParallel', 'MMFullyShardedDataParallel']
    assert 'AdaptationTrainLoop' in refused and 'take runner_type and strategy out' in refused

    def weights(name, epoch=3):
        path = tmp_path / name / f'epoch_{epoch}.pth'
        return torch.load(path, weights_only=True)['state_dict']

    # Checkpoints are whole, so that every tool reads them.
    for plain, other in (
        ('plain', 'fsdp'),
        ('plain unfrozen', 'fsdp unfrozen'),
        ('plain unfrozen', 'resumed'),
    ):
        expected, found = weights(plain), weights(other)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
    for name, value in weights('fsdp unfrozen').items():
        assert torch.equal(weights('resumed')[name], value), name
    # What gradual unfreezing held at the start, and let go.
    deepest = 'backbone.patch_embed.projection.weight'
    start = weights('plain', 1)[deepest]
    assert torch.equal(weights('fsdp unfrozen', 1)[deepest], start)
    assert not torch.equal(weights('fsdp unfrozen')[deepest], start)
