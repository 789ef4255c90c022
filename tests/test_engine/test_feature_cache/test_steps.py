"""Steps on cached features are light, and nobody but the step itself sees how."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmpretrain.models import LinearClsHead
from mmpretrain.registry import HOOKS, MODELS

from tests.toy import toy_config, train
from tl_plugin.engine.feature_cache.stepping import LightSteps


@HOOKS.register_module(force=True)
class LookAroundHook(Hook):
    """Notes what a step runs with, and what hooks around it see."""

    def before_run(self, runner) -> None:
        self.inside, self.outside, self.fused = [], [], []
        runner.model.head.fc.register_forward_hook(self._look)
        runner.optim_wrapper.optimizer.register_step_pre_hook(self._look_at_groups)

    def _look(self, module, inputs, output) -> None:
        if module.training:
            self.inside.append(torch.get_num_threads())

    def _look_at_groups(self, optimizer, *_) -> None:
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
    cfg.custom_hooks.append(dict(type='LookAroundHook'))
    runner = train(cfg)
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, LookAroundHook))
    return runner, hook


def test_a_small_head_trains_on_one_thread_and_all_else_on_all(tmp_path, three_threads):
    runner, hook = run(tmp_path)
    assert hook.inside[-6:] == [1] * 6  # before are those of the proof of the cut
    assert hook.outside == [(3, None, True)] * 6
    assert torch.get_num_threads() == 3 and runner.val_loop.evaluator.metrics


def test_what_is_no_small_head_keeps_its_threads(tmp_path, three_threads):
    cfg = toy_config(tmp_path, ('feature_extraction_cached',))
    for hook in cfg.custom_hooks:
        if hook.type == 'FreezeHook':
            hook.layers = ':-3'  # what trains are convolutions
    cfg.custom_hooks.append(dict(type='LookAroundHook'))
    (hook,) = (hook for hook in train(cfg).hooks if isinstance(hook, LookAroundHook))
    assert hook.inside[-6:] == [3] * 6


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


def test_the_first_step_makes_the_state_for_fused_ones(tmp_path):
    assert run(tmp_path / '0')[1].fused == [None, *[True] * 5]


@pytest.mark.parametrize('chosen', [dict(fused=False), dict(foreach=True)], ids=str)
def test_an_implementation_that_was_chosen_stays(tmp_path, chosen):
    options = {f'optim_wrapper.optimizer.{key}': value for key, value in chosen.items()}
    assert not any(run(tmp_path, options)[1].fused)


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


@MODELS.register_module(force=True)
class OwnLabelsHead(LinearClsHead):
    """Looks at each sample."""

    def _get_loss(self, cls_score, data_samples, **kwargs):
        assert len(cls_score) == len(data_samples)
        return super()._get_loss(cls_score, data_samples, **kwargs)


def test_heads_get_their_labels_in_their_own_way(tmp_path):
    own, _ = run(tmp_path / 'own', {'model.head.type': 'OwnLabelsHead'})
    stock, _ = run(tmp_path / 'stock')
    for name, value in stock.model.state_dict().items():
        torch.testing.assert_close(own.model.state_dict()[name], value)


@HOOKS.register_module(force=True)
class LookAtImagesHook(Hook):
    """Notes how the images lie in memory that go through the trunk in training."""

    def before_run(self, runner) -> None:
        self.innermost = []
        runner.model.backbone.register_forward_pre_hook(self._look)

    def _look(self, module, inputs) -> None:
        self.innermost.append(inputs[0].is_contiguous(memory_format=torch.channels_last))


def test_features_are_computed_with_the_channels_innermost(tmp_path):
    cfg = toy_config(tmp_path, ('feature_extraction_cached',), max_epochs=1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks.append(dict(type='LookAtImagesHook'))
    (hook,) = (hook for hook in train(cfg).hooks if isinstance(hook, LookAtImagesHook))
    assert hook.innermost.count(True) >= 3  # one for each batch of four
