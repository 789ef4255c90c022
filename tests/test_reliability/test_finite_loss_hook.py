"""A loss that is no number stops the run before anything is saved."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from tests.toy import target, toy_config, train
from tl_plugin.reliability import FiniteLossHook
from tl_plugin.reliability.checkpoints import read_whole

PACK = [dict(type='PackInputs', meta_keys=('img_id',))]


@HOOKS.register_module(force=True)
class Poison(Hook):
    """Makes the loss NaN by one image."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == self.at:
            for value in runner.model.head.parameters():
                value.data.fill_(float('inf'))


@pytest.mark.parametrize('strategies', [(), ('dann',)])
def test_it_stops_at_once_and_keeps_the_last_checkpoint(strategies, tmp_path):
    options = target() if strategies else {}
    cfg = toy_config(tmp_path, strategies, options, max_epochs=3)
    cfg.train_dataloader.dataset.pipeline = PACK
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1, by_epoch=False)
    cfg.custom_hooks = [dict(type='FiniteLossHook'), dict(type='Poison', at=4)]
    domain = 'source: ' if strategies else ''
    message = rf'loss is nan.*epoch 2, iteration 5, rank 0.*{domain}image \d+, '
    with pytest.raises(FloatingPointError, match=message):
        train(cfg)
    saved = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert saved == [f'iter_{number}.pth' for number in (1, 2, 3, 4)]
    state = read_whole(tmp_path / 'iter_4.pth')['state_dict']
    assert all(torch.isfinite(value).all() for value in state.values())


class _Runner:
    epoch = iter = 0
    optim_wrapper = object()


def test_patience_counts_losses_in_a_row():
    hook = FiniteLossHook(patience=1)
    bad, good = {'loss': torch.tensor(float('nan'))}, {'loss': torch.tensor(1.0)}
    for outputs in (bad, good, bad):
        hook.after_train_iter(_Runner, 0, {}, outputs)
    with pytest.raises(FloatingPointError):
        hook.after_train_iter(_Runner, 0, {}, bad)


def test_a_gradient_scaler_may_skip_steps():
    class Scaled(_Runner):
        class optim_wrapper:
            loss_scaler = torch.amp.GradScaler('cpu')

    hook = FiniteLossHook()
    for _ in range(10):
        hook.after_train_iter(Scaled, 0, {}, {'loss': float('inf'), 'accuracy': float('nan')})
    with pytest.raises(FloatingPointError, match='loss is inf'):
        hook.after_train_iter(Scaled, 0, {}, {'loss': float('inf')})


def test_wrong_patience():
    with pytest.raises(ValueError, match='patience=-1'):
        FiniteLossHook(patience=-1)
