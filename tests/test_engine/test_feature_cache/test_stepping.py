"""Optimizer steps on cached features are fused, and equal the ordinary ones."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS

from tests.toy import toy_config, train
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


@HOOKS.register_module(force=True)
class StepRecorderHook(Hook):
    """Records what a step runs with, and what hooks around it see."""

    def before_run(self, runner) -> None:
        self.inside, self.outside, self.fused, self.channels_last = [], [], [], []
        runner.model.head.fc.register_forward_hook(self._record_threads)
        runner.model.backbone.register_forward_pre_hook(self._record_layout)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._record_groups)

    def _record_threads(self, module, inputs, output) -> None:
        if module.training:
            self.inside.append(torch.get_num_threads())

    def _record_layout(self, module, inputs) -> None:
        self.channels_last.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    def _record_groups(self, optimizer, *_) -> None:
        self.fused.append(optimizer.param_groups[0]['fused'])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        group = runner.optim_wrapper.param_groups[0]
        whole = len(group['params']) == len(list(runner.model.parameters()))
        self.outside.append((torch.get_num_threads(), group['fused'], whole))


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def run(folder, options=None, **length):
    cfg = toy_config(folder, ('feature_extraction_cached',), options, **length)
    cfg.custom_hooks.append(dict(type='StepRecorderHook'))
    runner = train(cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, StepRecorderHook))
    return runner, hook


def test_a_small_head_trains_on_one_thread_and_the_rest_on_all(tmp_path, three_threads):
    runner, hook = run(tmp_path)
    assert hook.inside[-6:] == [1] * 6
    # Hooks see the groups as the config has them.
    assert hook.outside == [(3, None, True)] * 6
    assert torch.get_num_threads() == 3 and runner.val_loop.evaluator.metrics


def test_the_first_step_makes_the_state_for_fused_ones(tmp_path):
    assert run(tmp_path)[1].fused == [None, *[True] * 5]


@pytest.mark.parametrize('chosen', [dict(fused=False), dict(foreach=True)], ids=str)
def test_an_implementation_that_was_chosen_stays(tmp_path, chosen):
    options = {f'optim_wrapper.optimizer.{key}': value for key, value in chosen.items()}
    assert not any(run(tmp_path, options)[1].fused)


def test_features_are_computed_in_channels_last(tmp_path):
    options = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    _, hook = run(tmp_path, options, max_epochs=1)
    assert hook.channels_last.count(True) >= 3  # one for each batch of four
