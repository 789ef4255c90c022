"""Optimizer steps on cached features are fused, and equal the ordinary ones."""

from __future__ import annotations

import pytest
import torch

from tl_plugin.engine.feature_cache.stepping import LightSteps

OPTIMIZERS = {
    'SGD': dict(lr=0.1, momentum=0.9, weight_decay=0.01),
    'SGD without momentum': dict(lr=0.1),
    'Adam': dict(lr=0.01, weight_decay=0.01),
    'AdamW': dict(lr=0.01, weight_decay=0.01),
}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_a_fused_step_is_the_step(name):
    kind = getattr(torch.optim, name.split()[0])
    ways = []
    for light in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
        net[0].requires_grad_(False)
        optimizer = kind(net.parameters(), **OPTIMIZERS[name])
        steps = LightSteps([optimizer], list(net[0].parameters()))
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.rand(6, 5)).square().sum().backward()
            if light:
                with steps.taken():
                    optimizer.step()
            else:
                optimizer.step()
        ways.append((net, optimizer))
    (net, optimizer), (same, other) = ways
    torch.testing.assert_close(same.state_dict(), net.state_dict(), rtol=1e-5, atol=1e-7)
    assert other.state_dict()['param_groups'] == optimizer.state_dict()['param_groups']
    assert other.state_dict()['state'].keys() == optimizer.state_dict()['state'].keys()


def test_a_weight_that_joins_later_gets_its_first_step(tmp_path):
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    steps = LightSteps([optimizer], [])
    for step in range(3):
        for weight in weights[: step + 1]:
            weight.grad = torch.ones(2)
        with steps.taken():
            optimizer.step()
    assert [weight[0].item() for weight in weights] == pytest.approx([0.439, 0.71])
