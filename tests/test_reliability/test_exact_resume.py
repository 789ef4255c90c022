"""A run that is cut off and resumed ends bit-equal to one that isn't, whatever is random in it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import HOOKS, LOOPS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_reliability.resume_runs import (
    EXACT,
    RecordHook,
    Stopped,
    differing,
    random_config,
    run_interrupted,
    run_through,
)
from tests.toy import target, toy_config, train

DANN = dict(strategies=('dann', 'pseudo_label'), options=target())
ENDLESS = {'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True)}
PHASES = {
    'custom_hooks': [
        dict(type='GradualUnfreezeHook', schedule=dict(every=4, layers_per_step=5, by_epoch=False)),
        EXACT,
        dict(type='RecordHook'),
    ]
}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The uninterrupted run by epoch."""
    return run_through(random_config(tmp_path_factory.mktemp('whole'), max_epochs=3))


@pytest.mark.parametrize('at', [8, 12], ids=['mid-epoch', 'last batch of an epoch'])
def test_by_epoch(at, whole, tmp_path):
    weights, seen = run_interrupted(partial(random_config, max_epochs=3), tmp_path, at)
    assert seen == whole[1][at:]
    assert differing(weights, whole[0]) == []


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(max_iters=10),
        dict(max_iters=10, options=ENDLESS),
        dict(max_epochs=2, **DANN),
        dict(max_iters=10, **DANN),
        dict(max_epochs=2, options={'optim_wrapper.accumulative_counts': 4}),
    ],
    ids=['iteration', 'endless sampler', 'adaptation', 'adaptation by iteration', 'accumulation'],
)
def test_other_ways_to_train(kwargs, tmp_path):
    make = partial(random_config, **kwargs)
    weights, seen = run_through(make(tmp_path / 'straight'))
    resumed, rest = run_interrupted(make, tmp_path / 'resumed', 7)
    assert rest == seen[7:]
    assert differing(resumed, weights) == []


@pytest.mark.parametrize('at', [2, 7])
def test_in_the_middle_of_each_phase_of_unfreezing(at, tmp_path):
    make = partial(random_config, options=PHASES, max_epochs=2)
    weights, _ = run_through(make(tmp_path / 'straight'))
    resumed, _ = run_interrupted(make, tmp_path / 'resumed', at)
    assert differing(resumed, weights) == []


@pytest.mark.slow
def test_workers_may_change_between_attempts(whole, tmp_path):
    def make(folder, workers):
        options = {
            'train_dataloader.num_workers': workers,
            'train_dataloader.persistent_workers': True,
        }
        return random_config(folder, options, max_epochs=3)

    again = {'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': False}
    weights, _ = run_interrupted(partial(make, workers=2), tmp_path, 8, again)
    assert differing(weights, whole[0]) == []


def test_without_the_hook_the_runs_differ(tmp_path):
    def make(folder):
        cfg = random_config(folder, max_epochs=2)
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook != EXACT]
        return cfg

    weights, _ = run_through(make(tmp_path / 'straight'))
    resumed, _ = run_interrupted(make, tmp_path / 'resumed', 7)
    assert differing(resumed, weights)


def test_a_drawn_seed_is_taken_over(tmp_path):
    def resumed(at):
        cfg = random_config(tmp_path, {'randomness': dict(seed=None)}, max_epochs=2)
        cfg.resume, cfg.load_from = True, str(tmp_path / f'iter_{at}.pth')
        return run_through(cfg)

    cfg = random_config(tmp_path, {'randomness': dict(seed=None)}, max_epochs=2)
    cfg.custom_hooks.append(dict(type='StopHook', after=9))
    with pytest.raises(Stopped):
        train(cfg)
    early, late = resumed(4), resumed(7)
    assert early[1][3:] == late[1]
    assert differing(early[0], late[0]) == []


@HOOKS.register_module(force=True)
class CountValidations(Hook):
    def __init__(self) -> None:
        self.at = []

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.at.append(runner.iter)


def test_a_validation_that_the_checkpoint_came_before_is_made_up_for(tmp_path):
    options = {'train_cfg.val_interval': 1, 'custom_hooks': [EXACT, dict(type='CountValidations')]}

    def resume(name, epochs):
        cfg = toy_config(tmp_path, options=options, max_epochs=epochs)
        cfg.resume, cfg.load_from = True, str(tmp_path / name)
        runner = train(cfg)
        return next(hook.at for hook in runner.hooks if isinstance(hook, CountValidations))

    train(toy_config(tmp_path, options=options, max_epochs=2))
    assert resume('epoch_1.pth', 2) == [3, 6]
    assert resume('epoch_2.pth', 2) == [6]  # killed in the last validation


def test_another_length_of_the_epoch_starts_it_anew(tmp_path, caplog):
    cfg = random_config(tmp_path, max_epochs=2)
    cfg.custom_hooks.append(dict(type='StopHook', after=8))
    with pytest.raises(Stopped):
        train(cfg)
    cfg = random_config(tmp_path, {'train_dataloader.batch_size': 11}, max_epochs=3)
    cfg.resume, cfg.load_from = True, str(tmp_path / 'iter_8.pth')
    _, seen = run_through(cfg)
    assert [place[:3] for place in seen] == [(1, 8, 0), (1, 9, 1), (2, 10, 0), (2, 11, 1)]


def test_a_loop_of_ones_own_is_kept(tmp_path):
    @LOOPS.register_module(force=True)
    class OwnLoop(EpochBasedTrainLoop):
        pass

    options = {'train_cfg': dict(type='OwnLoop', max_epochs=1, _delete_=True)}
    cfg = toy_config(tmp_path, options=options)
    cfg.custom_hooks = [EXACT]
    assert type(train(cfg).train_loop) is OwnLoop


def _train_on_ranks(folder: str, at: int | None) -> tuple:
    cfg = random_config(folder, {'model_wrapper_cfg': CPU_MODEL_WRAPPER}, max_epochs=2)
    cfg.launcher = 'pytorch'
    if at:
        cfg.resume, cfg.load_from = True, f'{folder}/iter_{at}.pth'
    runner = train(cfg)
    seen = next(hook.seen for hook in runner.hooks if isinstance(hook, RecordHook))
    weights = {name: value.clone() for name, value in runner.model.module.named_parameters()}
    return {name: value.detach().numpy() for name, value in weights.items()}, seen


def test_two_processes(tmp_path):
    straight = run_distributed(_train_on_ranks, str(tmp_path), None)
    resumed = run_distributed(_train_on_ranks, str(tmp_path), 4)
    for (weights, seen), (again, rest) in zip(straight, resumed):
        assert rest == seen[4:]
        assert all(torch.equal(*map(torch.as_tensor, (weights[n], again[n]))) for n in weights)
    assert straight[0][1] != straight[1][1]
