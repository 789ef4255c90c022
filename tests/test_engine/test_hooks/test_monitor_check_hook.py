"""A metric that a run waits for is there, or the run says so before it begins."""

from __future__ import annotations

import re

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS, METRICS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import toy_config, train
from tl_plugin.launch.configs import merge_options

DOMAINS = {
    'val_cfg': dict(
        type='DomainValLoop', dataloaders=dict(target=dict(dataset=dict(shift=0.5, seed=1)))
    )
}
UNLABELLED = {
    'val_cfg': dict(
        type='DomainValLoop',
        dataloaders=dict(target=dict(dataset=dict(shift=0.5, seed=1, labels='none'))),
        evaluators=dict(target=dict(type='TargetValidator')),
    )
}
BOTH = 'source/accuracy/top1, target/accuracy/top1'


class Begun(Exception):
    """The first iteration would begin now."""


@HOOKS.register_module()
class StopAtFirstIterationHook(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise Begun


@HOOKS.register_module()
class SomeonesHook(Hook):
    priority = 'NORMAL'

    def after_val_epoch(self, runner, metrics=None):
        metrics['mine'] = 1.0


@METRICS.register_module()
class SomeonesMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [1.0] * len(data_samples)

    def compute_metrics(self, results):
        return {'many': 1.0} if len(results) > 8 else {'few': 1.0}


def _config(tmp_path, *options, hooks=()):
    stop = dict(type='StopAtFirstIterationHook')
    cfg = toy_config(tmp_path, max_epochs=1)
    cfg.custom_hooks = [dict(type='MonitorCheckHook'), *hooks, stop]
    cfg.train_cfg.val_interval = 1
    for each in options:
        merge_options(cfg, each)
    return cfg


def _refusal(cfg):
    with pytest.raises(ValueError, match=r'waits for the metric|means the first') as error:
        train(cfg)
    return str(error.value)


def _cured(cfg, message):
    """What the message proposes is what a command line would take."""
    settings = dict(re.findall(r'([\w.]+)=([\w./]+)', message.split(': set ')[1]))
    merge_options(cfg, settings)
    with pytest.raises(Begun):
        train(cfg)
    return settings


PLATEAU = dict(monitor='accuracy/top1', patience=1)
WAITING = {
    'save_best': ({'default_hooks.checkpoint.save_best': 'accuracy/top1'}, []),
    'several': ({'default_hooks.checkpoint.save_best': ['target/accuracy/top1', 'top1']}, []),
    'early stopping': ({}, [dict(type='EarlyStoppingHook', monitor='accuracy/top1')]),
    'scheduler': (
        {'param_scheduler': dict(_delete_=True, type='ReduceOnPlateauLR', monitor='accuracy/top1')},
        [],
    ),
    'list of schedulers': (
        {
            'param_scheduler': [
                dict(type='LinearLR', end=1),
                dict(type='ReduceOnPlateauLR', monitor='accuracy/top1'),
            ]
        },
        [],
    ),
    'unfreezing': ({}, [dict(type='GradualUnfreezeHook', schedule=PLATEAU)]),
    'retention': ({}, [dict(type='RetentionHook', metric='accuracy/top5')]),
}


@pytest.mark.parametrize('case', WAITING)
def test_what_cannot_come_is_refused_and_the_cure_works(case, tmp_path):
    options, hooks = WAITING[case]
    cfg = _config(tmp_path, DOMAINS, options, hooks=hooks)
    message = _refusal(cfg)
    assert BOTH in message
    if case != 'several':
        settings = _cured(cfg, message)
        found = {'retention': 'accuracy/top1'}.get(case, 'target/accuracy/top1')
        assert set(settings.values()) == {found}


def test_a_target_without_labels_has_no_accuracy(tmp_path):
    wanted = {'default_hooks.checkpoint.save_best': 'target/accuracy/top1'}
    cfg = _config(tmp_path, UNLABELLED, wanted)
    message = _refusal(cfg)
    assert 'source/accuracy/top1, target/label_free/information_maximization' in message
    settings = _cured(cfg, message)
    assert settings['default_hooks.checkpoint.rule'] == 'greater'
    # 'auto' takes the first metric, of which mmengine has to know what is better.
    auto = {'default_hooks.checkpoint.save_best': 'auto'}
    with pytest.raises(Begun):
        train(_config(tmp_path, auto))
    cfg = _config(tmp_path, auto)
    cfg.val_evaluator = dict(type='TargetValidator')
    _cured(cfg, _refusal(cfg))


def test_what_hooks_add_is_there(tmp_path):
    hooks = [
        dict(type='RetentionHook'),
        dict(type='AdaBNHook'),
        dict(type='LabelShiftHook'),
        dict(type='SimilarityHook', max_images=4, batch_size=4),
    ]
    names = [
        'retention/forgetting',
        'before_adabn/target/accuracy/top1',
        'label_shift',
        'similarity/source/cosine',
        'source/accuracy/top1',
    ]
    best = dict(save_best=names, rule='less')
    cfg = _config(tmp_path, DOMAINS, {'default_hooks.checkpoint': best}, hooks=hooks)
    # A real validation gives all of them.
    cfg.custom_hooks = cfg.custom_hooks[:-1]
    runner = train(cfg)
    assert set(runner.message_hub.runtime_info) >= {f'best_score_{name}' for name in names}
    assert 'retention/forgetting' in _refusal(
        _config(
            tmp_path,
            {'default_hooks.checkpoint': dict(save_best='label_shift', rule='less')},
            hooks=hooks[:1],
        )
    )


@pytest.mark.parametrize('foreign', ['hook', 'metric'])
def test_what_others_may_add_is_not_refused(foreign, tmp_path):
    hooks = [dict(type='SomeonesHook')] if foreign == 'hook' else []
    best = dict(save_best='mine' if foreign == 'hook' else 'many', rule='greater')
    cfg = _config(tmp_path, {'default_hooks.checkpoint': best}, hooks=hooks)
    if foreign == 'metric':
        cfg.val_evaluator = [cfg.val_evaluator, dict(type='SomeonesMetric')]
    cfg.custom_hooks = cfg.custom_hooks[:-1]
    runner = train(cfg)
    assert 'best_score' in runner.message_hub.runtime_info
    assert f'as far as is known (Someones{foreign.title()}' in _log(tmp_path)


def _log(folder):
    return max(folder.glob('*/*.log'), key=lambda path: path.stat().st_mtime).read_text()


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (dict(val_cfg=None, val_dataloader=None, val_evaluator=None), 'has no validation'),
        ({'train_cfg.val_begin': 2}, r'begins at 2 \(train_cfg\.val_begin\)'),
    ],
)
def test_where_nothing_is_validated_it_is_said(options, reason, tmp_path):
    cfg = _config(tmp_path, {'default_hooks.checkpoint.save_best': 'accuracy/top1'})
    for key, value in options.items():
        merge_options(cfg, {key: value}) if '.' in key else cfg.update({key: value})
    with pytest.raises(Begun):
        train(cfg)
    assert re.search(reason + '.*: it will never be looked at', _log(tmp_path))


def test_it_leaves_no_trace(tmp_path):
    weights = []
    for hooks in ([], [dict(type='MonitorCheckHook')]):
        cfg = toy_config(tmp_path, max_epochs=1)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            flip = dict(type='RandomFlip', prob=0.5)
            loader.dataset.pipeline = [flip, *loader.dataset.pipeline]
        cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
        cfg.custom_hooks = hooks
        weights.append(train(cfg).model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _on_a_rank(folder):
    best = {'default_hooks.checkpoint.save_best': 'accuracy/top1'}
    cfg = _config(folder, DOMAINS, best, {'launcher': 'pytorch'})
    cfg.model_wrapper_cfg = CPU_MODEL_WRAPPER
    return _refusal(cfg)


def test_all_ranks_refuse(tmp_path):
    first, second = run_distributed(_on_a_rank, str(tmp_path))
    assert first == second and BOTH in first
