"""The overlays of unfreezing, merged over a stock config and trained."""

from __future__ import annotations

import pytest
import torch

from tests.toy import target, toy_config, train
from tl_plugin.engine.hooks import GradualUnfreezeHook
from tl_plugin.engine.layers import LayerMap


@pytest.mark.parametrize(
    'strategies, decay',
    [
        (('gradual_unfreeze',), 0.75),
        (('dann', 'gradual_unfreeze'), 0.75),
        (('linear_probe_then_fine_tune',), 1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize('length', [dict(max_epochs=2), dict(max_iters=6)], ids=str)
def test_the_backbone_ends_trained_at_small_rates(tmp_path, strategies, decay, length):
    options = {
        'default_hooks.checkpoint': None,
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
    }
    if 'dann' in strategies:
        options.update(target())
    runner = train(toy_config(tmp_path, strategies, options, **length))
    assert all(value.requires_grad for value in runner.model.parameters())
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, GradualUnfreezeHook))
    layers = LayerMap.from_model(runner.model)
    # In so short a run several layers begin to train together.
    assert len(hook.plan.phases) == (1 if decay == 1 else 3)
    depths = sorted(depth for phase in hook.plan.phases for depth in phase.depths)
    assert depths == list(range(layers.num_layers - 1))
    assert hook.plan.phases[-1].start == runner.max_iters // 2
    rates = {
        group['layer']: group['initial_lr'] for group in runner.optim_wrapper.optimizer.param_groups
    }
    assert rates[layers.num_layers - 1] == pytest.approx(0.01)
    assert rates[0] == pytest.approx(0.01 * 0.1 * decay ** (layers.num_layers - 1))
    assert torch.isfinite(runner.model.head.fc.weight).all()
