"""GradualUnfreezeHook in real runs: at the right time, with the right rates, resumed exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.hooks import Hook

from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner
from tl_plugin.engine.hooks import GradualUnfreezeHook

ITERS = dict(_delete_=True, by_epoch=False, max_iters=16, val_interval=4)
LAYERWISE = dict(
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0),
)
# The tiny ViT has depths 0 (stem), 1 to 3 (blocks) and 4 (head).
TWO_STEPS = dict(milestones=[(1, '2:4'), (2, '0:2')])


class Watch(Hook):
    """Notes for each iteration which parameters moved and the rates of the groups."""

    priority = 'LOWEST'

    def __init__(self):
        self.moved, self.rates, self.modes, self.logged = [], [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = state_of(runner.model)
        groups = runner.optim_wrapper.optimizer.param_groups
        self.rates.append({g.get('name', 'all'): g['lr'] for g in groups})
        self.modes.append({n for n, m in runner.model.named_modules() if m.training})
        self.logged.append(runner.message_hub.get_scalar('train/lr').current())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.moved.append(
            {
                name
                for name, value in runner.model.named_parameters()
                if not torch.equal(value, self.before[name])
            }
        )


def make(work_dir, schedule=TWO_STEPS, model=TINY_VIT, hooks=(), hook=None, **changes):
    hook = dict(type='GradualUnfreezeHook', schedule=copy.deepcopy(schedule), **hook or {})
    watch = Watch()
    runner = tiny_runner(work_dir, model, custom_hooks=[hook, *hooks, watch], **changes)
    runner.watch = watch
    return runner


def train(*args, **kwargs):
    runner = make(*args, **kwargs)
    runner.train()
    return runner


def log_of(work_dir):
    return next(work_dir.glob('*/*.log')).read_text()


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, GradualUnfreezeHook))


@pytest.mark.parametrize(
    'schedule, train_cfg, starts',
    [
        (TWO_STEPS, {}, {0: 8, 1: 8, 2: 4, 3: 4}),
        # In the middle of epochs: 4 iterations make one.
        (dict(milestones=[(3, '2:4'), (6, '0:2')], by_epoch=False), {}, {0: 6, 1: 6, 2: 3, 3: 3}),
        (
            dict(milestones=[(3, '2:4'), (6, '0:2')], by_epoch=False),
            ITERS,
            {0: 6, 1: 6, 2: 3, 3: 3},
        ),
        (dict(until=0.5, by_epoch=False), ITERS, {3: 2, 2: 4, 1: 6, 0: 8}),
        (dict(every=1, layers_per_step=2), {}, {3: 4, 2: 4, 1: 8, 0: 8}),
    ],
    ids=str,
)
def test_layers_move_from_the_iteration_on_that_the_plan_says(
    tmp_path, schedule, train_cfg, starts
):
    model = TINY_RESNET if schedule is TWO_STEPS else TINY_VIT
    runner = train(tmp_path, schedule, model, hook=dict(layers='0:4'), train_cfg=train_cfg)
    layers = hook_of(runner).layer_map
    assert len(runner.watch.moved) == 16
    for iteration, moved in enumerate(runner.watch.moved):
        expected = {
            name
            for depth in range(layers.num_layers)
            for name in layers.names(depth)
            if starts.get(depth, 0) <= iteration
        }
        assert moved <= expected, (iteration, moved - expected)
        # Where a residual branch ends in a norm layer of weight 0, biases get no gradient at first.
        assert all(name.endswith('bias') for name in expected - moved), iteration


def test_running_statistics_move_from_the_same_iteration_on(tmp_path):
    runner = train(tmp_path, dict(milestones=[(6, '2:-1')], by_epoch=False), TINY_RESNET)
    layers = hook_of(runner).layer_map
    names = {n for depth in range(2, layers.num_layers - 1) for n in layers.names(depth)}
    norms = {n for n, m in runner.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    thawed = {n for n in norms if f'{n}.weight' in names}
    for iteration, modes in enumerate(runner.watch.modes):
        assert norms & modes == (thawed if iteration >= 6 else set()), iteration


def test_the_plan_is_logged_before_training(tmp_path):
    train(tmp_path)
    log = log_of(tmp_path)
    table = log[log.index('Plan of unfreezing') :]
    assert table.index('epoch 2') < table.index('Epoch(train)')
    assert 'GradualUnfreezeHook, unfreezing depths 2, 3 at epoch 1, iteration 4: ' in log
    assert '0 of 44 parameters are frozen' in log


def test_rates_warm_up_without_compounding(tmp_path):
    scheduler = dict(type='CosineAnnealingLR', T_max=16, eta_min_ratio=0.01, by_epoch=False)
    changes = dict(optim_wrapper=LAYERWISE, param_scheduler=[scheduler])
    plain = train(tmp_path / 'plain', **copy.deepcopy(changes))
    warm = train(tmp_path / 'warm', hook=dict(warmup_iters=3), **copy.deepcopy(changes))
    starts = dict(layer_00=8, layer_01=8, layer_02=4, layer_03=4, layer_04=-9)
    for iteration, (expected, found) in enumerate(zip(plain.watch.rates, warm.watch.rates)):
        for name, rate in found.items():
            after = iteration - starts[name[:8]]
            factor = {0: 0.25, 1: 0.5, 2: 0.75}.get(after, 1.0)
            assert rate == expected[name] * factor, (iteration, name)
        assert warm.watch.logged[iteration] == next(iter(found.values()))
    rates = [[g['lr'] for g in r.optim_wrapper.optimizer.param_groups] for r in (plain, warm)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    'extra',
    [
        dict(model=TINY_RESNET),
        dict(hooks=[dict(type='EMAHook', momentum=0.3)]),
        dict(optim_wrapper=dict(LAYERWISE, accumulative_counts=2)),
        dict(hook=dict(norm_affine='trained', dropout='train', check_ranks=True)),
    ],
    ids=['ResNet', 'EMA', 'accumulation', 'policy'],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, extra):
    changes = dict(
        schedule=dict(milestones=[(2, '2:4'), (4, '0:2')]),
        hook=dict(layers='0:4'),
        train_cfg=dict(max_epochs=6),
        optim_wrapper=LAYERWISE,
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=6, eta_min_ratio=0.1)],
    )
    changes.update(copy.deepcopy(extra))
    changes['hook'] = dict(dict(layers='0:4', warmup_iters=3), **changes['hook'])
    straight = train(tmp_path, **copy.deepcopy(changes))
    for epoch in (1, 3, 5):
        resumed = train(
            tmp_path / str(epoch),
            **copy.deepcopy(changes),
            resume=True,
            load_from=str(tmp_path / f'epoch_{epoch}.pth'),
        )
        assert resumed.watch.moved == straight.watch.moved[4 * epoch :]
        assert resumed.watch.rates == straight.watch.rates[4 * epoch :]
        for name, value in state_of(straight.model).items():
            assert torch.equal(value, state_of(resumed.model)[name]), (epoch, name)


PLATEAU = dict(monitor='accuracy/top1', patience=1, layers_per_step=2)
#: Nothing learns, so that the metric stands still from the first validation on.
STILL = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)))


@pytest.mark.parametrize('train_cfg', [{}, ITERS], ids=['epochs', 'iterations'])
def test_layers_begin_to_train_when_a_metric_stalls(tmp_path, train_cfg):
    runner = train(tmp_path, dict(PLATEAU, patience=2), train_cfg=train_cfg, **STILL)
    # Validations after 4, 8, 12 and 16: the first is the best, the third is the second stall.
    assert runner.message_hub.get_info('gradual_unfreeze_0')['starts'] == [12]
    trained = {n for n, value in runner.model.named_parameters() if value.requires_grad}
    layers = hook_of(runner).layer_map
    assert trained == {*layers.names(2), *layers.names(3), *layers.names(4)}


@pytest.mark.parametrize(
    'train_cfg, name, checkpoint',
    [
        (dict(max_epochs=4), 'epoch', {}),
        (ITERS, 'iter', dict(default_hooks=dict(checkpoint=dict(interval=4, by_epoch=False)))),
    ],
    ids=['epochs', 'iterations'],
)
def test_decisions_by_metric_survive_a_resume(tmp_path, train_cfg, name, checkpoint):
    changes = dict(
        optim_wrapper=LAYERWISE, train_cfg=train_cfg, hook=dict(warmup_iters=2), **checkpoint
    )
    # Nothing but the first validation improves by so much.
    schedule = dict(PLATEAU, min_delta=60.0)
    straight = train(tmp_path, schedule, **copy.deepcopy(changes))
    key = 'gradual_unfreeze_0'
    decided = straight.message_hub.get_info(key)
    assert decided['starts'] == [8, 12]
    for step in (1, 2, 3):
        number = step if name == 'epoch' else 4 * step
        resumed = train(
            tmp_path / str(step),
            schedule,
            **copy.deepcopy(changes),
            resume=True,
            load_from=str(tmp_path / f'{name}_{number}.pth'),
        )
        assert resumed.message_hub.get_info(key) == decided, step
        assert resumed.watch.rates == straight.watch.rates[4 * step :]
        if name == 'epoch':
            for key_, value in state_of(straight.model).items():
                assert torch.equal(value, state_of(resumed.model)[key_]), (step, key_)


def test_a_metric_that_validation_lacks_is_told(tmp_path):
    with pytest.raises(KeyError, match="monitors 'accuracy', but validation gives accuracy/top1"):
        train(tmp_path, dict(monitor='accuracy'))


def frozen_stages_vit():
    model = copy.deepcopy(TINY_VIT)
    model['backbone']['frozen_stages'] = 2
    return model


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(schedule=dict(every=2)), 'would begin to train at epoch 8, but the run ends after 4'),
        (dict(train_cfg=ITERS), 'A run that counts iterations needs by_epoch=False'),
        (dict(hook=dict(layers='0:9')), 'Valid depths are 0'),
        (dict(hook=dict(warmup_iters=3)), 'warmup_iters needs optimizer groups of their own'),
        (
            dict(hook=dict(warmup_iters=3, priority='LOW'), optim_wrapper=LAYERWISE),
            "needs priority 'HIGHEST'",
        ),
        (dict(hook=dict(warmup_iters=-1)), 'expected a number of iterations'),
        (dict(hooks=[dict(type='FreezeHook', layers='0:2')]), 'both decide about'),
        (dict(hooks=[dict(type='GradualUnfreezeHook', schedule=TWO_STEPS)]), 'both decide about'),
        (
            dict(
                model=frozen_stages_vit(), optim_wrapper=dict(paramwise_cfg=dict(bias_lr_mult=1.0))
            ),
            'no optimizer group holds them',
        ),
        (
            dict(schedule=PLATEAU, val_cfg=None, val_dataloader=None, val_evaluator=None),
            'needs validation during training',
        ),
    ],
    ids=str,
)
def test_wrong_use_is_told(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **copy.deepcopy(changes))


def test_frozen_stages_give_way_to_the_plan(tmp_path):
    runner = train(tmp_path, model=frozen_stages_vit(), optim_wrapper=LAYERWISE)
    layers = hook_of(runner).layer_map
    assert not any(runner.watch.moved[3] & set(layers.names(depth)) for depth in range(4))
    assert set(layers.names(1)) <= runner.watch.moved[8]
    assert 'VisionTransformer.frozen_stages=2 of `backbone` is switched off' in log_of(tmp_path)


def test_beside_a_frozen_part_of_its_own(tmp_path):
    runner = train(
        tmp_path,
        dict(every=1),
        hook=dict(layers='2:4'),
        hooks=[dict(type='FreezeHook', layers='0:2')],
    )
    layers = hook_of(runner).layer_map
    still = set(layers.names(0)) | set(layers.names(1))
    assert not any(moved & still for moved in runner.watch.moved)
    assert set(layers.names(2)) <= runner.watch.moved[-1]
    assert 'backbone.layers.0' not in runner.watch.modes[-1]
    assert 'backbone.layers.1' in runner.watch.modes[-1]
