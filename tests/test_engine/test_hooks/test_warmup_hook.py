"""WarmupHook in real runs: the rates of a plain run times its factor, alone and beside others."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.hooks import Hook

from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner

LAYERWISE = dict(
    constructor='LayerwiseLROptimWrapperConstructor', paramwise_cfg=dict(layer_decay_rate=0.9)
)
COSINE = [dict(type='CosineAnnealingLR', T_max=16, eta_min_ratio=0.01, by_epoch=False)]


class Rates(Hook):
    """Notes the rates of all groups in each iteration, and the one that is logged."""

    priority = 'LOWEST'

    def __init__(self):
        self.found, self.logged = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.found.append([group['lr'] for group in runner.optim_wrapper.optimizer.param_groups])
        self.logged.append(runner.message_hub.get_scalar('train/lr').current())


def train(work_dir, *hooks, model=TINY_RESNET, **changes):
    runner = tiny_runner(
        work_dir,
        model,
        custom_hooks=[*hooks, rates := Rates()],
        param_scheduler=copy.deepcopy(COSINE),
        **copy.deepcopy(changes),
    )
    runner.train()
    runner.rates = rates
    return runner


@pytest.mark.parametrize(('share', 'iters'), [(0.25, 4), (0.1, 2), (1, 16), (1e-9, 1)])
def test_rates_are_those_of_the_schedule_times_a_growing_factor(tmp_path, share, iters):
    plain = train(tmp_path / 'plain')
    warm = train(tmp_path / 'warm', dict(type='WarmupHook', share=share))
    for iteration, (before, after) in enumerate(zip(plain.rates.found, warm.rates.found)):
        factor = min(1, (iteration + 1) / (iters + 1))
        assert after == [rate * factor for rate in before], iteration
        assert warm.rates.logged[iteration] == after[0]
    ends = [runner.optim_wrapper.optimizer.state_dict()['param_groups'] for runner in (plain, warm)]
    assert ends[0] == ends[1]


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    hook = dict(type='WarmupHook', share=0.6)
    straight = train(tmp_path, hook)
    start = dict(load_from=str(tmp_path / 'epoch_2.pth'), resume=True)
    resumed = train(tmp_path / 'resumed', hook, **start)
    assert resumed.rates.found == straight.rates.found[8:]
    for name, value in state_of(straight.model).items():
        assert torch.equal(value, state_of(resumed.model)[name]), name


@pytest.mark.parametrize('first', [True, False])
def test_beside_gradual_unfreezing_the_factors_multiply(tmp_path, first):
    schedule = dict(milestones=[(1, '0:4')])
    unfreeze = dict(type='GradualUnfreezeHook', schedule=schedule, warmup_iters=7)
    hooks = [dict(type='WarmupHook', share=0.5), unfreeze]
    changes = dict(model=TINY_VIT, optim_wrapper=LAYERWISE)
    plain = train(tmp_path / 'plain', **changes)
    warm = train(tmp_path / 'warm', *(hooks if first else hooks[::-1]), **changes)
    names = [group['name'][:8] for group in warm.optim_wrapper.optimizer.param_groups]
    for iteration, (before, after) in enumerate(zip(plain.rates.found, warm.rates.found)):
        for name, old, new in zip(names, before, after):
            factor = min(1, (iteration + 1) / 9)
            if name != 'layer_04' and iteration >= 4:
                factor *= min(1, (iteration - 3) / 8)
            assert new == pytest.approx(old * factor, rel=1e-12), (iteration, name)
    assert [g['lr'] for g in warm.optim_wrapper.optimizer.param_groups] == [
        g['lr'] for g in plain.optim_wrapper.optimizer.param_groups
    ]


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(share=0), r'share must be in \(0, 1\], got 0'),
        (dict(share=1.5), r'share must be in \(0, 1\]'),
        (dict(priority='LOW'), "needs priority 'HIGHEST'"),
    ],
)
def test_what_it_refuses(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        train(tmp_path, dict(type='WarmupHook', **options))
