"""What the launch adds, and that a run without it is left as it was."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from tests.toy import toy_config
from tl_plugin.launch.runs import build_runner, prepare
from tl_plugin.reliability import AtomicCheckpointHook, ExactResumeHook, LoadReportHook
from tl_plugin.reliability.checkpoints import BrokenCheckpointError
from tl_plugin.reliability.fault_tolerance import ADDED, make_fault_tolerant


def _types(cfg):
    return [hook['type'].split('.')[-1] for hook in cfg.custom_hooks]


def test_the_launch_adds_what_is_missing(tmp_path):
    own = dict(type='LoadReportHook', new_classifier=True)
    cfg = toy_config(tmp_path, options={'custom_hooks': [own]})
    before = cfg.to_dict()
    runner = build_runner(prepare(cfg))
    assert {type(hook).__name__ for hook in runner.hooks} >= set(ADDED)
    assert [hook.new_classifier for hook in runner.hooks if isinstance(hook, LoadReportHook)] == [
        True
    ]
    assert not any(type(hook) is CheckpointHook for hook in runner.hooks)
    assert cfg.to_dict()['custom_hooks'] == before['custom_hooks']
    # mmpretrain's own tools run what was dumped, without custom_imports.
    dumped = Config.fromfile(next(tmp_path.glob('*.py')))
    assert dumped.default_hooks.checkpoint.type.startswith('tl_plugin.')
    # Inference reads the checkpoint, which wants the safe globals that the package registers.
    assert dumped.custom_imports == dict(imports=['tl_plugin'], allow_failed_imports=False)


def test_arguments_of_the_stock_hook_stay():
    stock = dict(type='CheckpointHook', interval=3, max_keep_ckpts=2)
    made = make_fault_tolerant(Config(dict(default_hooks=dict(checkpoint=stock))))
    kind = made.default_hooks.checkpoint.pop('type')
    assert kind == 'tl_plugin.reliability.AtomicCheckpointHook'
    assert dict(made.default_hooks.checkpoint) == dict(interval=3, max_keep_ckpts=2)
    assert make_fault_tolerant(Config()).default_hooks.checkpoint.interval == 1


def test_what_is_not_stock_is_left_alone():
    for checkpoint in (None, dict(type='MyCheckpointHook')):
        cfg = Config(dict(default_hooks=dict(checkpoint=checkpoint)))
        assert make_fault_tolerant(cfg).default_hooks.checkpoint == checkpoint
    cfg = Config(dict(custom_hooks=[dict(type=ExactResumeHook)]), format_python_code=False)
    assert len(make_fault_tolerant(cfg).custom_hooks) == len(ADDED)
    twice = make_fault_tolerant(make_fault_tolerant(Config()))
    assert sorted(_types(twice)) == sorted(ADDED)
    assert issubclass(AtomicCheckpointHook, CheckpointHook)


def test_where_a_run_starts_is_checked_before_anything_is_built(tmp_path):
    torch.save({'weight': torch.zeros(9)}, tmp_path / 'other.pth')
    with pytest.raises(FileNotFoundError, match=r'load_from: no .*gone\.pth; beside it are other'):
        build_runner(prepare(toy_config(tmp_path, options={'load_from': f'{tmp_path}/gone.pth'})))
    (tmp_path / 'bad.pth').write_bytes((tmp_path / 'other.pth').read_bytes()[:-50])
    with pytest.raises(BrokenCheckpointError, match=r'bad\.pth is not whole'):
        build_runner(prepare(toy_config(tmp_path, options={'load_from': f'{tmp_path}/bad.pth'})))
    with pytest.raises(BrokenCheckpointError, match=r'other\.pth does not say at which iteration'):
        prepare(toy_config(tmp_path), resume=str(tmp_path / 'other.pth'))
    (tmp_path / 'last_checkpoint').write_text('other.pth')
    with pytest.raises(ValueError, match=r'folder of a run: name one of bad\.pth, other\.pth'):
        build_runner(prepare(toy_config(tmp_path, options={'load_from': str(tmp_path)})))


def test_nothing_but_metrics_is_logged_of_a_validation(tmp_path):
    cfg = toy_config(tmp_path, max_epochs=1)
    cfg.experiment_name = 'metrics alone'  # two runs of one name in a second share their log
    build_runner(prepare(cfg)).train()
    records = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert set(json.loads(records[-1])) == {'accuracy/top1', 'data_time', 'time', 'step'}
