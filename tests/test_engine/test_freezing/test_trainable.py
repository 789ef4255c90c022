"""set_trainable in real runs: one process, two gloo processes, compiled, FlexibleRunner."""

from __future__ import annotations

import copy
import gc
import inspect
import weakref

import pytest
import torch
import torch.distributed as dist
from mmengine._strategy import BaseStrategy
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner
from mmpretrain.registry import HOOKS, MODELS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_config, tiny_runner
from tl_plugin.engine.freezing.trainable import (
    disable_frozen_stages,
    not_in_optimizer,
    refuse_unsupported,
    set_trainable,
)

FROZEN = ('backbone.layers.0.', 'backbone.patch_embed.', 'backbone.pos_embed', 'backbone.cls_token')


def names_with(model, prefixes=FROZEN):
    model = getattr(model, 'module', model)
    return [name for name, _ in model.named_parameters() if name.startswith(prefixes)]


def trained_names(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


@HOOKS.register_module()
class ThawAtEpoch(Hook):
    """Freezes the first layers before the run and thaws them at an epoch."""

    def __init__(self, epoch: int = 2):
        self.epoch = epoch
        self.reduced = []
        self.wrappers = []

    def before_run(self, runner):
        set_trainable(runner, names_with(runner.model))
        self._watch(runner)

    def before_train(self, runner):
        self.before_first_step = state_of(runner.model)

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            self.before_thaw = state_of(runner.model)
            set_trainable(runner, [])
            self._watch(runner)

    def _watch(self, runner):
        """Count the gradient elements that cross between the ranks."""
        if not dist.is_initialized():
            return
        self.wrappers.append(weakref.ref(runner.model))
        self.reduced.append(0)

        def count(state, bucket):
            self.reduced[-1] += bucket.buffer().numel()
            return (
                dist.all_reduce(bucket.buffer() / 2, async_op=True)
                .get_future()
                .then(lambda done: done.value()[0])
            )

        runner.model.register_comm_hook(None, count)


@pytest.fixture
def runner(tmp_path):
    runner = tiny_runner(tmp_path)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    return runner


def test_freezes_exactly_these_and_thaws_only_its_own(runner):
    model = runner.model
    model.backbone.pos_embed.requires_grad = False  # somebody else's decision
    everything = dict(model.named_parameters())
    frozen = names_with(model)
    everything[frozen[-1]].grad = torch.ones_like(everything[frozen[-1]])
    assert set_trainable(runner, frozen)
    assert trained_names(model) == set(everything) - set(frozen)
    assert everything[frozen[-1]].grad is None
    assert not set_trainable(runner, frozen)
    assert set_trainable(runner, frozen[-1:])
    assert trained_names(model) == set(everything) - {frozen[-1], 'backbone.pos_embed'}
    assert set_trainable(runner, [])
    assert trained_names(model) == set(everything) - {'backbone.pos_embed'}


def test_errors_name_the_cause_and_change_nothing(runner):
    everything = trained_names(runner.model)
    with pytest.raises(
        ValueError,
        match=r"no parameter 'backbone.layer.0.ln1.weight'.*"
        r'backbone.layers.0.ln1.weight',
    ):
        set_trainable(runner, ['backbone.layer.0.ln1.weight'])
    with pytest.raises(ValueError, match='nothing would train'):
        set_trainable(runner, everything)
    assert trained_names(runner.model) == everything


def test_thawing_what_no_optimizer_group_holds_is_an_error(tmp_path):
    model = copy.deepcopy(TINY_VIT)
    model['backbone']['frozen_stages'] = 1
    runner = tiny_runner(
        tmp_path,
        model,
        optim_wrapper=dict(
            paramwise_cfg=dict(norm_decay_mult=1.0), optimizer=dict(weight_decay=0.1)
        ),
    )
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    held = [n for n, p in runner.model.named_parameters() if not p.requires_grad]
    assert not_in_optimizer(runner, [*held, 'head.layers.head.weight']) == held
    with pytest.raises(ValueError, match=f'{len(held)} parameters are to train but no optimizer'):
        set_trainable(runner, [])


BACKBONES = [
    dict(type='ResNet', depth=18, frozen_stages=0),
    dict(type='ResNet', depth=50, deep_stem=True, frozen_stages=2),
    dict(type='SwinTransformer', arch='tiny', frozen_stages=1),
    dict(type='VisionTransformer', arch='deit-tiny', frozen_stages=3),
    dict(type='ConvNeXt', arch='atto', frozen_stages=2),
    dict(type='MobileNetV3', arch='small_075', frozen_stages=3),
    dict(type='VGG', depth=11, frozen_stages=2),
    dict(type='XCiT', embed_dims=32, num_heads=4, depth=2, frozen_stages=1),
    dict(type='PoolFormer', arch='s12', frozen_stages=1),
]


@pytest.mark.parametrize('cfg', BACKBONES, ids=lambda cfg: cfg['type'])
def test_frozen_stages_are_switched_off(cfg):
    model = MODELS.build(dict(type='ImageClassifier', backbone=cfg))
    model.train()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen
    assert disable_frozen_stages(model) == frozen
    assert {name for name, value in model.named_parameters() if not value.requires_grad} == frozen
    model.requires_grad_(True)
    model.train()
    assert all(value.requires_grad for value in model.parameters())
    assert disable_frozen_stages(model) == set()


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='VisionTransformer', arch='deit-tiny', frozen_stages=-1),
        dict(type='VisionTransformer', arch='deit-tiny'),
        dict(type='ConvNeXt', arch='atto'),
        dict(type='ResNet', depth=18),
    ],
    ids=str,
)
def test_what_froze_no_stages_keeps_its_own_frozen_parameters(cfg):
    model = MODELS.build(dict(type='ImageClassifier', backbone=cfg))
    own = next(iter(model.parameters()))
    own.requires_grad = False
    assert disable_frozen_stages(model) == set()
    assert not own.requires_grad


def thaw_in_two_processes(work_dir, changes):
    runner = tiny_runner(
        f'{work_dir}/{dist.get_rank()}',
        launcher='pytorch',
        custom_hooks=[dict(type='ThawAtEpoch')],
        **changes,
    )
    runner.train()
    (hook,) = (h for h in runner.hooks if isinstance(h, ThawAtEpoch))
    gc.collect()
    alive = [wrapper() is not None for wrapper in hook.wrappers]
    return dict(
        start=hook.before_first_step,
        thaw=hook.before_thaw,
        end=state_of(runner.model),
        reduced=hook.reduced,
        alive=alive,
        compiled='train_step' in vars(runner.model),
    )


# Compiling takes half a minute here; `disable` leaves all of it but the tracing.
NOT_TRACED = dict(backend='eager', disable=True)


@pytest.mark.parametrize(
    'changes',
    [
        dict(compile=NOT_TRACED),
        dict(optim_wrapper=dict(accumulative_counts=2)),
        dict(model_wrapper_cfg=dict(CPU_MODEL_WRAPPER, find_unused_parameters=True)),
        pytest.param(dict(compile=dict(backend='eager')), marks=pytest.mark.slow),
    ],
    ids=['untraced', 'accumulation', 'find_unused', 'compiled'],
)
def test_ranks_stay_equal_and_frozen_parameters_are_not_reduced(tmp_path, changes):
    first, second = run_distributed(thaw_in_two_processes, str(tmp_path), changes)
    frozen = set(names_with(tiny_runner(tmp_path).model))
    for stage in ('thaw', 'end'):
        for name, value in first[stage].items():
            assert torch.equal(value, second[stage][name]), (stage, name)
    for name, value in first['thaw'].items():
        assert torch.equal(value, first['start'][name]) == (name in frozen), name
        assert not torch.equal(value, first['end'][name]), name

    total = sum(value.numel() for value in first['end'].values())
    count = sum(first['end'][name].numel() for name in frozen)
    # 32 images over 2 ranks in batches of 8: 2 iterations an epoch, 2 epochs before and after.
    steps = 4 // changes.get('optim_wrapper', {}).get('accumulative_counts', 1)
    assert first['reduced'] == [steps * (total - count), steps * total]
    assert first['alive'] == [False, True]
    assert first['compiled'] == ('compile' in changes)


def thaw_with_flexible_runner(work_dir):
    cfg = tiny_config(f'{work_dir}/{dist.get_rank()}', custom_hooks=[dict(type='ThawAtEpoch')])
    runner = FlexibleRunner(
        model=cfg.model,
        work_dir=cfg.work_dir,
        train_dataloader=cfg.train_dataloader,
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        custom_hooks=cfg.custom_hooks,
        strategy=dict(type='DDPStrategy', model_wrapper=dict(CPU_MODEL_WRAPPER)),
        launcher='pytorch',
        randomness=dict(seed=0),
        compile=NOT_TRACED,
        default_scope='mmpretrain',
        default_hooks=dict(checkpoint=None),
        experiment_name=f'flexible{dist.get_rank()}',
        cfg=cfg,
    )
    runner.train()
    assert runner.strategy.model is runner.model
    (hook,) = (h for h in runner.hooks if isinstance(h, ThawAtEpoch))
    return dict(
        end=state_of(runner.model),
        thaw=hook.before_thaw,
        reduced=hook.reduced,
        compiled='train_step' in vars(runner.model),
    )


def test_flexible_runner_is_wrapped_anew_too(tmp_path):
    first, second = run_distributed(thaw_with_flexible_runner, str(tmp_path))
    assert all(torch.equal(value, second['end'][n]) for n, value in first['end'].items())
    assert all(not torch.equal(value, first['thaw'][n]) for n, value in first['end'].items())
    assert first['reduced'][0] < first['reduced'][1]
    # Later strategies take `disable` for no compiling at all.
    assert first['compiled'] == ('disable' not in inspect.getsource(BaseStrategy.compile_model))


class MMDeepSpeedEngineWrapper(torch.nn.Linear):
    """Named like mmengine's, which can only be imported where deepspeed is installed."""


def test_launchers_that_fix_what_trains_are_refused(runner):
    runner.model = MMDeepSpeedEngineWrapper(1, 1)
    with pytest.raises(NotImplementedError, match='divides the optimizer among the ranks once'):
        set_trainable(runner, [])
    runner.model = torch.nn.Linear(1, 1)
    runner.model._use_orig_params = False
    with pytest.raises(NotImplementedError, match='use_orig_params=True'):
        refuse_unsupported(runner)


def test_batch_norm_models_run_in_two_processes(tmp_path):
    first, second = run_distributed(train_resnet, str(tmp_path))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def train_resnet(work_dir):
    runner = tiny_runner(f'{work_dir}/{dist.get_rank()}', TINY_RESNET, launcher='pytorch')
    runner.register_hook(FreezeFirst())
    runner.train()
    return {n: v.detach() for n, v in runner.model.module.named_parameters()}


class FreezeFirst(Hook):
    def before_run(self, runner):
        set_trainable(runner, names_with(runner.model, ('backbone.conv1', 'backbone.layer1')))
