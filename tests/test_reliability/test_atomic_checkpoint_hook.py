"""Checkpoints in place of the stock hook's: same names, whole at any moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import toy_config, train
from tl_plugin.reliability import files
from tl_plugin.reliability.checkpoints import check_resumable

EXACT = dict(type='ExactResumeHook')


def config(work_dir, max_epochs=3, resume=False, hooks=(), kind='AtomicCheckpointHook', **kwargs):
    """Saves and validates each epoch."""
    cfg = toy_config(work_dir, options={'train_cfg.val_interval': 1}, max_epochs=max_epochs)
    cfg.default_hooks.checkpoint = dict(type=kind, interval=1, **kwargs)
    cfg.custom_hooks = [EXACT, *hooks]
    cfg.resume = resume
    return cfg


def names(folder):
    return sorted(path.name for path in folder.glob('*') if path.is_file() and path.suffix != '.py')


@pytest.mark.parametrize(
    'kwargs',
    [dict(), dict(max_keep_ckpts=1), dict(max_keep_ckpts=2, save_best='auto')],
    ids=['all', 'one', 'two and the best'],
)
def test_the_files_are_those_of_the_stock_hook(kwargs, tmp_path):
    for kind in ('CheckpointHook', 'AtomicCheckpointHook'):
        runner = train(config(tmp_path / kind, kind=kind, **kwargs))
        assert runner.message_hub.get_info('last_ckpt').endswith('epoch_3.pth')
    assert names(tmp_path / 'AtomicCheckpointHook') == names(tmp_path / 'CheckpointHook')
    pointer = (tmp_path / 'AtomicCheckpointHook' / 'last_checkpoint').read_text()
    check_resumable(pointer)


@pytest.fixture
def operations(monkeypatch):
    """The order in which files are renamed into place and deleted."""
    done = []
    replace, unlink = os.replace, Path.unlink

    def record_replace(source, target):
        done.append(('write', Path(target).name))
        replace(source, target)

    def record_unlink(path, *args, **kwargs):
        done.append(('delete', path.name))
        unlink(path, *args, **kwargs)

    monkeypatch.setattr(os, 'replace', record_replace)
    monkeypatch.setattr(Path, 'unlink', record_unlink)
    monkeypatch.setattr(os, 'remove', lambda path: record_unlink(Path(path)))
    return done


def test_the_old_one_is_deleted_when_the_new_one_is_there(operations, tmp_path):
    train(config(tmp_path, max_epochs=2, max_keep_ckpts=1))
    assert [step for step in operations if 'test' not in step[1]] == [
        ('write', 'epoch_1.pth'),
        ('write', 'last_checkpoint'),
        ('write', 'epoch_2.pth'),
        ('write', 'last_checkpoint'),
        ('delete', 'epoch_1.pth'),
    ]


@HOOKS.register_module(force=True)
class Improve(Hook):
    """A metric that is better each time."""

    priority = 'VERY_HIGH'

    def after_val_epoch(self, runner, metrics=None) -> None:
        metrics['rising'] = runner.epoch


def test_the_best_one_is_deleted_when_the_better_one_is_there(operations, tmp_path):
    train(
        config(
            tmp_path, max_epochs=2, save_best='rising', rule='greater', hooks=[dict(type='Improve')]
        )
    )
    old, new = 'best_rising_epoch_1.pth', 'best_rising_epoch_2.pth'
    assert operations.index(('write', new)) < operations.index(('delete', old))
    assert (tmp_path / new).is_file() and not (tmp_path / old).exists()


class FullDisk:
    """Writes fail for a while."""

    def __init__(self, monkeypatch, failing) -> None:
        self.calls, self.failing, self.fsync = 0, failing, os.fsync
        monkeypatch.setattr(files.os, 'fsync', self)

    def __call__(self, handle) -> None:
        self.calls += 1
        if self.failing(os.readlink(f'/proc/self/fd/{handle}')):
            raise OSError(errno.ENOSPC, 'No space left on device')
        self.fsync(handle)


def test_a_full_disk_costs_one_checkpoint(monkeypatch, tmp_path):
    FullDisk(monkeypatch, lambda path: 'epoch_2' in path)
    runner = train(
        config(
            tmp_path,
            max_keep_ckpts=1,
            save_best='rising',
            rule='greater',
            hooks=[dict(type='Improve')],
        )
    )
    assert runner.epoch == 3
    assert [name for name in names(tmp_path) if name.endswith('.pth')] == [
        'best_rising_epoch_3.pth',
        'epoch_3.pth',
    ]
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3]


def test_a_disk_that_is_full_at_the_end_is_an_error(monkeypatch, tmp_path):
    FullDisk(monkeypatch, lambda path: 'epoch_2' in path or 'epoch_3' in path)
    with pytest.raises(OSError, match=r'last whole one is .*epoch_1.*make room and resume'):
        train(config(tmp_path, max_keep_ckpts=1))
    assert 'epoch_1.pth' in names(tmp_path)
    monkeypatch.undo()
    runner = train(config(tmp_path, max_keep_ckpts=1, resume=True))
    assert runner.epoch == 3 and 'epoch_1.pth' not in names(tmp_path)


def test_resume_passes_over_a_damaged_file_and_ends_the_same(tmp_path):
    straight = train(config(tmp_path / 'straight')).model.state_dict()
    train(config(tmp_path / 'cut', max_epochs=2))
    newest = tmp_path / 'cut' / 'epoch_2.pth'
    newest.write_bytes(newest.read_bytes()[:-1000])
    (tmp_path / 'cut' / '.epoch_3.pth.123.partial').touch()
    runner = train(config(tmp_path / 'cut', resume=True))
    assert runner._load_from.endswith('epoch_1.pth')
    assert all(torch.equal(v, straight[n]) for n, v in runner.model.state_dict().items())
    assert not list((tmp_path / 'cut').glob('.*.partial'))
    check_resumable(newest)


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    assert train(config(tmp_path, max_epochs=1, resume=True)).epoch == 1


def test_killed_before_the_old_one_was_deleted(tmp_path, monkeypatch):
    cfg = config(tmp_path, max_epochs=2, max_keep_ckpts=1)
    with monkeypatch.context() as patch:
        patch.setattr(files.WholeFileBackend, 'isfile', _killed)
        with pytest.raises(KeyboardInterrupt):
            train(cfg)
    assert {'epoch_1.pth', 'epoch_2.pth'} <= set(names(tmp_path))
    train(config(tmp_path, max_epochs=3, max_keep_ckpts=1, resume=True))
    assert [name for name in names(tmp_path) if name.endswith('.pth')] == ['epoch_3.pth']


def _killed(*_):
    raise KeyboardInterrupt


@HOOKS.register_module(force=True)
class Diverge(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.epoch == 1:
            next(iter(runner.model.parameters())).data.fill_(float('nan'))


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    with pytest.raises(FloatingPointError, match=r'backbone\.conv1\.weight is not finite'):
        train(config(tmp_path, max_keep_ckpts=1, hooks=[dict(type='Diverge')]))
    assert names(tmp_path)[0] == 'epoch_1.pth'


def test_what_is_not_local_is_written_as_ever(tmp_path):
    cfg = config(tmp_path, max_epochs=1, backend_args=dict(backend='local'))
    runner = train(cfg)
    hook = next(h for h in runner.hooks if type(h).__name__ == 'AtomicCheckpointHook')
    assert not hook._atomic and (tmp_path / 'epoch_1.pth').is_file()


def _resume_on_ranks(folder: str) -> tuple:
    cfg = config(folder, max_epochs=2, resume=True)
    cfg.launcher, cfg.model_wrapper_cfg = 'pytorch', CPU_MODEL_WRAPPER
    rank = int(os.environ['RANK'])
    if rank:
        cfg.load_from = 'what rank 1 alone has seen.pth'
    return train(cfg)._load_from


def test_ranks_take_the_checkpoint_of_the_first(tmp_path):
    train(config(tmp_path, max_epochs=1))
    paths = run_distributed(_resume_on_ranks, str(tmp_path))
    assert paths == [str(tmp_path / 'epoch_1.pth')] * 2
