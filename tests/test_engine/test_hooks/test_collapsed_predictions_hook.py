"""A model that gives all images one class is named, with domain, step and class."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from tests.distributed import run_distributed
from tests.toy import loader, toy_config, train
from tl_plugin.engine.hooks import CollapsedPredictionsHook


@HOOKS.register_module(force=True)
class DeadHead(Hook):
    """From one epoch on, up to another, the head says the same of every image."""

    def __init__(self, dead: tuple = (2, 3), label: int = 2) -> None:
        self.dead, self.label, self.kept = dead, label, None

    def before_val(self, runner) -> None:
        fc = runner.model.head.fc
        if runner.epoch in self.dead:
            self.kept = [fc.weight.data.clone(), fc.bias.data.clone()]
            fc.weight.data.zero_()
            fc.bias.data = 9 * torch.eye(3)[self.label]

    def after_val(self, runner) -> None:
        if self.kept is not None:
            runner.model.head.fc.weight.data, runner.model.head.fc.bias.data = self.kept
            self.kept = None


def config(folder, hook=None, **images):
    cfg = toy_config(folder, (), dict(log_level='INFO'), max_epochs=4)
    images = dict(size=30, **images)
    cfg.train_cfg.val_interval = 1
    cfg.val_dataloader = loader(shuffle=False, **images)
    domains = dict(field=dict(dataset=dict(shift=0.5, seed=1)))
    cfg.val_cfg = dict(type='DomainValLoop', dataloaders=domains)
    hook = dict(type='CollapsedPredictionsHook', **(hook or {}))
    cfg.custom_hooks = [dict(type='DeadHead'), hook]
    return cfg


def warnings(folder):
    (log,) = folder.glob('*/*.log')
    return [line for line in log.read_text().splitlines() if 'CollapsedPredictionsHook: ' in line]


def test_it_warns_once_and_says_when_it_is_over(tmp_path):
    train(config(tmp_path))
    found = [line for line in warnings(tmp_path) if 'iteration 3' not in line]
    begun = [line for line in found if 'have collapsed' in line and 'iteration 6' in line]
    # 12 training images in batches of 4: epoch 2 ends with iteration 6, epoch 4 with 12.
    assert [line.split('Hook: ')[1].split(',')[0] for line in begun] == ['source', 'field']
    assert '30 of 30 images are given class 2 (blue)' in begun[0] and 'WARNING' in begun[0]
    assert not any('iteration 9' in line for line in found)
    over = [line for line in found if 'no longer' in line]
    assert len(over) == 2 and all('iteration 12' in line for line in over)


@pytest.mark.parametrize(
    ('hook', 'images'),
    [
        pytest.param(dict(min_images=31), {}, id='few images'),
        pytest.param({}, dict(indices=list(range(2, 30, 3)) * 3), id='really one class'),
    ],
)
def test_it_is_silent_without_reason(hook, images, tmp_path):
    cfg = config(tmp_path, hook, **images)
    cfg.val_cfg = {}
    cfg.custom_hooks[0].dead = (1, 2, 3, 4)
    train(cfg)
    assert warnings(tmp_path) == []


def test_a_test_run_is_judged_too(tmp_path):
    cfg = config(tmp_path)
    cfg.test_dataloader = cfg.val_dataloader
    runner = train(cfg)
    runner.model.head.fc.weight.data.zero_()
    runner.test()
    assert any('test, iteration 12' in line for line in warnings(tmp_path))
    # Of a test alone no training data are built: they may not be there.
    cfg.experiment_name, cfg.load_from = 'alone', str(tmp_path / 'epoch_4.pth')
    cfg.work_dir = str(tmp_path / 'alone')
    alone = Runner.from_cfg(cfg)
    alone.load_or_resume()
    alone.model.head.fc.weight.data.zero_()
    alone.test()
    assert not isinstance(alone._train_loop, BaseLoop)
    assert any('test: the predictions' in line for line in warnings(tmp_path / 'alone'))


class _Sample(dict):
    """A data sample of one prediction."""


def _on_rank(labels):
    """What a rank says whose 30 images got its one of ``labels``."""
    import torch.distributed as dist

    import tl_plugin.engine.hooks.collapsed_predictions_hook as module

    said = []
    module._say = lambda message, level: said.append(message)
    hook = CollapsedPredictionsHook()
    dataset = type('Data', (), {})
    loop = type('Loop', (), dict(domain='target', dataloader=type('', (), dict(dataset=dataset))))
    runner = type('Runner', (), dict(iter=1, val_loop=loop))
    label = torch.tensor([labels[dist.get_rank()]])
    hook.after_val_iter(runner, 0, {}, [_Sample(pred_label=label) for _ in range(30)])
    hook.after_val_epoch(runner)
    return said


def test_processes_judge_together():
    """What the other rank saw counts: each has images of one class alone."""
    assert run_distributed(_on_rank, (0, 1)) == [[], []]
    one, other = run_distributed(_on_rank, (1, 1))
    assert one == other and '60 of 60 images are given class 1.' in one[0]


@pytest.mark.parametrize('options', [dict(share=0.0), dict(share=1.1), dict(min_images=0)])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=f'{next(iter(options))} must be'):
        CollapsedPredictionsHook(**options)


@pytest.mark.parametrize('outputs', [None, torch.zeros(3), [object()], [_Sample()]])
def test_other_outputs_are_passed_over(outputs):
    hook = CollapsedPredictionsHook(min_images=1)
    runner = type('Runner', (), dict(iter=1, val_loop=object()))
    hook.after_val_iter(runner, 0, {}, outputs)
    hook.after_val_epoch(runner)
