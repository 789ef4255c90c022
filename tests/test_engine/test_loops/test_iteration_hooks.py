"""Which hooks an iteration on cached features calls: all that act, in their order."""

from __future__ import annotations

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tests.toy import toy_config, train

CALLS: list = []


class Noting(Hook):
    """Notes when it is called, and with which losses."""

    def __init__(self, name) -> None:
        self.name = name

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        CALLS.append((runner.iter, self.name, sorted(outputs)))


@HOOKS.register_module(force=True)
class NotingBoth(Hook):
    """Overrides what mmengine's stages pass on to, as ``IterTimerHook`` does."""

    def _before_iter(self, runner, batch_idx, data_batch=None, mode='train') -> None:
        CALLS.append((runner.iter, 'before', mode))

    def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train') -> None:
        CALLS.append((runner.iter, 'after', mode))


@HOOKS.register_module(force=True)
class RegisterLaterHook(Hook):
    """Registers one more hook during the run, and exchanges a method of another."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 1:
            runner.register_hook(Noting('first'), priority='HIGHEST')
            runner.register_hook(Noting('last'), priority='LOWEST')

    def after_train_epoch(self, runner) -> None:
        idle = Hook()
        idle.after_train_iter = lambda runner, **kwargs: CALLS.append((runner.iter, 'own', []))
        runner.hooks.append(idle)


def run(tmp_path, *hooks):
    CALLS.clear()
    cfg = toy_config(tmp_path, ('feature_extraction_cached',))
    cfg.default_hooks.checkpoint = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    return train(cfg)


def test_hooks_that_come_later_are_called_in_their_order(tmp_path):
    run(tmp_path, dict(type='RegisterLaterHook'))
    names = [[name for number, name, _ in CALLS if number == step] for step in range(6)]
    assert names[:3] == [[], ['first', 'last'], ['first', 'last']]
    assert names[3:] == [['first', 'last', 'own']] * 3
    assert 'loss' in CALLS[0][2]


def test_both_names_of_a_stage_are_heard(tmp_path):
    run(tmp_path, dict(type='NotingBoth'))
    assert [(step, name, 'train') for step in range(6) for name in ('before', 'after')] == CALLS


def test_a_runner_with_its_own_way_of_calling_hooks_keeps_it(tmp_path):
    stages = []

    class OwnRunner(Runner):
        def call_hook(self, fn_name, **kwargs) -> None:
            stages.append(fn_name)
            super().call_hook(fn_name, **kwargs)

    cfg = toy_config(tmp_path, ('feature_extraction_cached',), max_epochs=1)
    OwnRunner.from_cfg(cfg).train()
    assert stages.count('before_train_iter') == stages.count('after_train_iter') == 3


@HOOKS.register_module(force=True)
class Mistaken(Hook):
    def before_train_iter(self, runner) -> None:
        """Takes too few arguments."""


def test_a_hook_with_wrong_arguments_is_named(tmp_path):
    with pytest.raises(TypeError, match='Mistaken'):
        run(tmp_path, dict(type='Mistaken'))
