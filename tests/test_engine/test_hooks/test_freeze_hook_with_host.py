"""FreezeHook beside the host's options: accumulation, checkpointing, EMA, several ranks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook

from tests.distributed import run_distributed
from tests.test_engine.test_hooks.freeze_runs import Watch, of_backbone, train
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner
from tl_plugin.engine.freezing.checks import check_ranks_equal


@pytest.mark.parametrize(
    'changes',
    [
        dict(optim_wrapper=dict(accumulative_counts=2)),
        dict(
            optim_wrapper=dict(
                optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1)
            )
        ),
        dict(optim_wrapper=dict(optimizer=dict(type='Lamb', lr=0.1, weight_decay=0.1))),
        dict(activation_checkpointing=['backbone.layers.1', 'backbone.layers.2']),
    ],
    ids=['accumulation', 'SGD', 'Lamb', 'checkpointing'],
)
def test_works_with_the_hosts_options(tmp_path, changes):
    runner = train(tmp_path, TINY_VIT, dict(layers='0:2'), **changes)
    layers = runner.hooks[0].layer_map
    frozen = {*layers.names(0), *layers.names(1)}
    assert runner.moved == set(state_of(runner.model)) - frozen


def test_checkpointed_training_is_the_same_as_plain(tmp_path):
    changes = dict(activation_checkpointing=['backbone.layers.1', 'backbone.layers.2'])
    plain = train(tmp_path / 'plain', TINY_VIT, dict(layers='0:2'))
    recomputed = train(tmp_path / 'recomputed', TINY_VIT, dict(layers='0:2'), **changes)
    for name, value in state_of(plain.model).items():
        torch.testing.assert_close(value, state_of(recomputed.model)[name], msg=name)


def test_checkpointing_inside_a_backbone(tmp_path):
    model = copy.deepcopy(TINY_RESNET)
    model['backbone']['with_cp'] = True
    runner = train(tmp_path, model, dict(layers='0:3'))
    layers = runner.hooks[0].layer_map
    assert all(set(layers.names(depth)) <= runner.moved for depth in range(3, layers.num_layers))


def test_gradients_that_get_lost_are_told(tmp_path):
    # TinyViT recomputes in the reentrant way without looking whether its input needs gradients.
    arch = dict(channels=[8, 8, 16, 16], num_heads=[1, 1, 2, 2], depths=[1, 2, 2, 1])
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='TinyViT', arch=arch, img_size=(32, 32), window_size=[2, 2, 2, 2]),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=16),
        data_preprocessor=dict(num_classes=4),
    )
    told = 'parameters are to train but got no gradient in the first iteration: backbone.stages.'
    for checkpoint in (True, False):
        model['backbone']['use_checkpoint'] = checkpoint
        work_dir = tmp_path / str(checkpoint)
        train(work_dir, model, dict(layers='0:3'), size=32, train_cfg=dict(max_epochs=1))
        assert (told in next(work_dir.glob('*/*.log')).read_text()) == checkpoint


def test_moving_averages_keep_frozen_weights_to_the_bit(tmp_path):
    runner = tiny_runner(
        tmp_path,
        TINY_RESNET,
        custom_hooks=[
            dict(type='FreezeHook', layers=':-1'),
            dict(type='EMAHook', momentum=0.3),
            watch := Watch(),
        ],
    )
    runner.train()
    ema = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)['state_dict']
    assert all(torch.equal(ema[n], watch.start[n]) for n in of_backbone(ema))
    assert not torch.equal(ema['head.fc.weight'], state_of(runner.model)['head.fc.weight'])


def test_modules_that_do_more_in_train_than_set_a_flag(tmp_path):
    # LeViT's attention caches its biases when it goes to eval mode, and drops them in between.
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='LeViT', arch='128s', img_size=64, drop_path_rate=0.5),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LeViTClsHead', num_classes=4, in_channels=384, distillation=False, topk=(1,)
        ),
        data_preprocessor=dict(num_classes=4),
    )
    runner = train(
        tmp_path, model, dict(layers=':-1'), size=64, train_cfg=dict(max_epochs=2, val_interval=9)
    )
    assert not of_backbone(runner.moved)
    assert runner.watch.same


def train_in_two_processes(work_dir, corrupt):
    hooks = [dict(type='FreezeHook', layers='0:2', check_ranks=True)]
    if corrupt:
        hooks.append(Corrupt())
    runner = tiny_runner(
        f'{work_dir}/{dist.get_rank()}',
        TINY_RESNET,
        launcher='pytorch',
        custom_hooks=[*hooks, watch := Watch()],
    )
    runner.train()
    check_ranks_equal(runner.model, 'at the end')
    end = state_of(runner.model)
    return {name for name, value in end.items() if not torch.equal(value, watch.start[name])}


class Corrupt(Hook):
    """Changes one weight on rank 1 by one bit."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if dist.get_rank() == 1:
            weight = runner.model.module.head.fc.weight.data
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))

    priority = 'HIGHEST'


def test_two_processes_freeze_the_same_and_check_it(tmp_path):
    first, second = run_distributed(train_in_two_processes, str(tmp_path), False)
    frozen = set(state_of(tiny_runner(tmp_path, TINY_RESNET).model)) - first
    assert first == second
    assert {n.split('.')[1] for n in frozen} == {'conv1', 'bn1', 'layer1'}


def test_ranks_that_drift_apart_are_noticed(tmp_path):
    with pytest.raises(
        RuntimeError,
        match=r'Ranks \[1\] hold other weights than rank 0 after '
        r'iteration 0: 1 of \d+ parameters differ, head.fc',
    ):
        run_distributed(train_in_two_processes, str(tmp_path), True)


def test_mixed_precision(tmp_path):
    runner = train(
        tmp_path, TINY_RESNET, dict(layers=':-1'), optim_wrapper=dict(type='CPUAmpOptimWrapper')
    )
    assert not of_backbone(runner.moved)
