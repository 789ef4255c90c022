"""Gradual unfreezing on several ranks: equal to one process, bit-equal ranks, exact resumes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner

#: Three phases of two epochs; a checkpoint after each epoch.
SCHEDULE = dict(milestones=[(2, '2:4'), (4, '0:2')])
MIDDLES = (1, 3, 5)
JOINT_BATCH = 16


def run(work_dir, batch_size, model=TINY_VIT, resume_from=None, **options):
    hook = dict(
        type='GradualUnfreezeHook',
        schedule=SCHEDULE,
        layers='0:4',
        warmup_iters=1,
        check_ranks=True,
    )
    distributed = dist.is_initialized()
    rank = dist.get_rank() if distributed else 0
    changes = dict(
        custom_hooks=[hook, dict(type='EMAHook', momentum=0.2), dict(type='ExactResumeHook')],
        train_cfg=dict(max_epochs=6),
        train_dataloader=dict(batch_size=batch_size, dataset=dict(flip=True)),
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
        param_scheduler=[dict(type='CosineAnnealingLR', T_max=6, eta_min_ratio=0.1)],
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01),
            constructor='LayerwiseLROptimWrapperConstructor',
            clip_grad=dict(max_norm=1.0),
            paramwise_cfg=dict(layer_decay_rate=0.9),
        ),
    )
    if resume_from:
        changes.update(resume=True, load_from=resume_from)
    changes.update(options)
    runner = tiny_runner(
        f'{work_dir}/{rank}',
        model,
        **copy.deepcopy(changes),
        launcher='pytorch' if distributed else 'none',
    )
    runner.train()
    return state_of(runner.model)


def run_and_resume(work_dir, batch_size, wrapper):
    straight = run(work_dir, batch_size, model_wrapper_cfg=wrapper)
    dist.barrier()
    resumed = {
        epoch: run(
            f'{work_dir}/from_{epoch}',
            batch_size,
            model_wrapper_cfg=wrapper,
            resume_from=f'{work_dir}/0/epoch_{epoch}.pth',
        )
        for epoch in MIDDLES
    }
    return straight, resumed


# DDP groups the gradients again after its first iteration, unless it looks for unused parameters.
# With more than two ranks the grouping decides in which order the ranks are summed.
@pytest.mark.parametrize(
    'world_size, wrapper',
    [
        (2, CPU_MODEL_WRAPPER),
        pytest.param(
            4, dict(CPU_MODEL_WRAPPER, find_unused_parameters=True), marks=pytest.mark.slow
        ),
    ],
)
def test_ranks_equal_one_process_and_resume_exactly(tmp_path, world_size, wrapper):
    results = run_distributed(
        run_and_resume,
        str(tmp_path / 'joint'),
        JOINT_BATCH // world_size,
        wrapper,
        world_size=world_size,
    )
    alone = run(tmp_path / 'alone', JOINT_BATCH)
    straight, _ = results[0]
    for name, value in alone.items():
        torch.testing.assert_close(straight[name], value, rtol=0, atol=1e-5, msg=name)
        for other, _ in results[1:]:
            assert torch.equal(other[name], straight[name]), name
        for epoch in MIDDLES:
            for _, again in results:
                assert torch.equal(again[epoch][name], straight[name]), (epoch, name)


def test_batch_norm_parameters_are_equal_on_both_ranks(tmp_path):
    # Each rank keeps running statistics of its own, as everywhere in mmengine.
    first, second = run_distributed(run, str(tmp_path), 8, TINY_RESNET)
    for name, value in first.items():
        if 'running' not in name:
            assert torch.equal(value, second[name]), name
