"""Freezing and layer-wise rates under FSDP, through FlexibleRunner, for real on two CPU ranks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from tests.distributed import run_distributed
from tests.tiny_runs import state_of, tiny_config, tiny_runner
from tl_plugin.engine.layers import LayerMap
from tl_plugin.stack.model_wrappers import parameters

OPTIMIZER = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01),
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, flat_decay_mult=0.0),
)


class Watch(Hook):
    """Copies all weights, whole, before each epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = []

    def before_train_epoch(self, runner):
        self.states.append(weights(runner.model))

    def after_train(self, runner):
        self.states.append(weights(runner.model))


def weights(model):
    if isinstance(model, FSDP):
        with FSDP.summon_full_params(model, writeback=False):
            return {n: v.detach().clone() for n, v in parameters(model).items()}
    return {n: v.detach().clone() for n, v in parameters(model).items()}


def train_sharded(work_dir, hook, state, optim_wrapper=OPTIMIZER, use_orig_params=True):
    cfg = tiny_config(work_dir, custom_hooks=[hook], optim_wrapper=copy.deepcopy(optim_wrapper))
    runner = FlexibleRunner(
        model=cfg.model,
        work_dir=cfg.work_dir,
        train_dataloader=cfg.train_dataloader,
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        custom_hooks=cfg.custom_hooks,
        strategy=dict(
            type='FSDPStrategy',
            model_wrapper=dict(
                type='MMFullyShardedDataParallel',
                use_orig_params=use_orig_params,
                # FSDP takes a CPU only where it is told to.
                device_id=torch.device('cpu'),
                auto_wrap_policy=ModuleWrapPolicy([TransformerEncoderLayer]),
            ),
        ),
        launcher='pytorch',
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        default_hooks=dict(checkpoint=None),
        experiment_name=f'fsdp{dist.get_rank()}',
        cfg=cfg,
    )
    runner.register_hook(watch := Watch())
    runner.register_hook(Start(state))
    runner.train()
    names = {id(v): n for n, v in parameters(runner.model).items()}
    groups = {
        group['name']: {names[id(v)] for v in group['params']}
        for group in runner.optim_wrapper.optimizer.param_groups
    }
    return watch.states, groups, type(runner.model).__name__


class Start(Hook):
    """Starts from given weights: FSDP draws its own."""

    priority = 'VERY_HIGH'

    def __init__(self, state):
        self.state = state

    def before_train(self, runner):
        model = runner.model
        if isinstance(model, FSDP):
            with FSDP.summon_full_params(model):
                self._load(parameters(model))
        else:
            self._load(parameters(model))

    def _load(self, values):
        for name, value in values.items():
            value.data.copy_(self.state[name])


HOOKS = {
    'freeze': dict(type='FreezeHook', layers='0:3'),
    'unfreeze': dict(
        type='GradualUnfreezeHook',
        warmup_iters=1,
        schedule=dict(milestones=[(1, '2:4'), (2, '0:2')]),
    ),
}


@pytest.mark.parametrize('kind', HOOKS)
def test_sharded_training_equals_plain_training(tmp_path, kind):
    state = state_of(tiny_runner(tmp_path / 'start').model)
    plain = tiny_runner(
        tmp_path / 'plain',
        custom_hooks=[HOOKS[kind], watch := Watch(), Start(state)],
        optim_wrapper=copy.deepcopy(OPTIMIZER),
        train_dataloader=dict(batch_size=16),
    )
    plain.train()
    results = run_distributed(train_sharded, str(tmp_path), HOOKS[kind], state)
    states, groups, wrapper = results[0]
    assert wrapper == 'MMFullyShardedDataParallel'
    layers = LayerMap.from_model(plain.model)
    for epoch, (sharded, expected) in enumerate(zip(states, watch.states)):
        for name, value in expected.items():
            torch.testing.assert_close(sharded[name], value, rtol=0, atol=1e-5, msg=name)
            if kind == 'freeze' and layers.depth(name) < 3:
                assert torch.equal(sharded[name], states[0][name]), (epoch, name)
    # A shard is flat, whatever the parameter is: the rule for flat tensors asks for the whole.
    names = {id(value): name for name, value in plain.model.named_parameters()}
    assert groups == {
        group['name']: {names[id(v)] for v in group['params']}
        for group in plain.optim_wrapper.optimizer.param_groups
    }


@pytest.mark.parametrize('optim_wrapper', [OPTIMIZER, {}], ids=['layerwise', 'one group'])
def test_flattened_parameters_are_refused(tmp_path, optim_wrapper):
    state = state_of(tiny_runner(tmp_path / 'start').model)
    with pytest.raises(RuntimeError, match=r'NotImplementedError.*Set use_orig_params=True'):
        run_distributed(train_sharded, str(tmp_path), HOOKS['freeze'], state, optim_wrapper, False)
