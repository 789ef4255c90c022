"""What takes no ordinary training step goes with each kind of head and loop, or is refused."""

from __future__ import annotations

import pytest
import torch
from mmpretrain.registry import MODELS

from tests.test_combinations import FACTORS, HEADS, make_config, refusal
from tl_plugin.launch.runs import build_runner, prepare

#: Head -> what the refusal of a layer that can't be fitted says; None where it can.
FROZEN = {
    'linear': None,
    'vit': None,
    'stacked': None,
    'arcface': 'ArcFaceClsHead has none: use LinearClsHead',
    'several': 'gives an image one class; this model has MultiLabelLinearClsHead',
}


@pytest.mark.parametrize('target', ['unlabelled', 'few', 'labelled'])
@pytest.mark.parametrize('head', FROZEN)
def test_frozen_alignment_fits_each_head_or_refuses_it(head, target, tmp_path):
    plain = {name: values[0] for name, values in FACTORS.items()}
    dsbn = head in ('linear', 'stacked') and target == 'labelled'
    cfg = make_config({**plain, 'head': head, 'target': target, 'dsbn': dsbn}, tmp_path)
    cfg.load_from = str(tmp_path / 'source_model.ckpt')
    state = MODELS.build(cfg.model.to_dict()).state_dict()
    torch.save(dict(state_dict=state, meta={}), cfg.load_from)
    cfg.train_cfg = dict(
        type='FrozenAlignmentLoop', target_dataloader=cfg.train_cfg.target_dataloader
    )
    runner = build_runner(prepare(cfg))
    wanted = FROZEN[head]
    if target == 'few' and head != 'several':
        wanted = 'uses no target label'
    if wanted:
        with pytest.raises(ValueError, match=wanted):
            runner.train()
        return
    runner.train()
    after = runner.model.state_dict()
    changed = {name for name, value in state.items() if not torch.equal(value, after[name])}
    assert {name.split('.')[0] for name in changed - {'dsbn.started'}} == {'head'}
    assert len(changed - {'dsbn.started'}) == 2 and runner.iter == 0


@pytest.mark.parametrize(
    ('head', 'method', 'dsbn'),
    [*((head, 'sar', False) for head in HEADS), ('linear', 'tent', True), ('vit', 'tent', True)],
)
def test_test_time_adaptation_with_each_head(head, method, dsbn, tmp_path):
    plain = {name: values[0] for name, values in FACTORS.items()}
    cfg = make_config({**plain, 'head': head, 'dsbn': dsbn}, tmp_path)
    options = dict(method=method, lr=0.1, margin=1.0, depth=1.0, guard='none', min_batch=2)
    cfg.model.update(type='TestTimeClassifier', test_time=options)
    wanted = refusal({'head': head, 'dsbn': dsbn})
    if head == 'several':
        wanted = 'lowers the entropy over classes, one an image'
    if wanted:
        with pytest.raises(ValueError, match=wanted):
            MODELS.build(cfg.model.to_dict())
        return
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(cfg.val_cfg, type='DomainTestLoop')
    runner = build_runner(prepare(cfg))
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    assert runner.test()
    after = runner.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    norms = ('norm', '.1.', '.5.', 'ln', 'layers.1', 'dsbn.started', 'running')
    assert changed and all(any(part in name for part in norms) for name in changed), changed
    assert not any(name.startswith('head') for name in changed)


LORA_REFUSED = dict(
    cached='features are cached behind the backbone, and a part of it trains',
    source_free='without a source learns from alignments, .* has none: use the overlay shot',
)


@pytest.mark.parametrize('loop', FACTORS['loop'])
@pytest.mark.parametrize('head', ['vit', 'stacked'])
def test_lora_in_each_loop(head, loop, tmp_path):
    plain = {name: values[0] for name, values in FACTORS.items()}
    case = {**plain, 'head': head, 'loop': loop}
    cfg = make_config(case, tmp_path / 'run')
    if head == 'stacked':  # a network of convolutions: its 1x1 ones are in none, so refused
        cfg.model.update(type='LoRAClassifier')
        with pytest.raises(ValueError, match='have none: use fine_tune'):
            MODELS.build(cfg.model.to_dict())
        return
    cfg.load_from = str(tmp_path / 'source_model.ckpt')
    state = MODELS.build(cfg.model.to_dict()).state_dict()
    torch.save(dict(state_dict=state, meta={}), cfg.load_from)
    cfg.model.update(type='LoRAClassifier')
    freeze = dict(type='FreezeHook', patterns=[r'^(?!head\.|neck\.|.*\.lora_)'])
    cfg.custom_hooks = [freeze, dict(type='LoRAHook')]
    runner = build_runner(prepare(cfg))
    if loop in LORA_REFUSED:
        with pytest.raises(ValueError, match=LORA_REFUSED[loop]):
            runner.train()
        return
    runner.train()
    after = runner.model.state_dict()
    assert after.keys() == state.keys()
    changed = {name for name, value in state.items() if not torch.equal(value, after[name])}
    adapted = {f'{name}.weight' for name in runner.model.adapted}
    assert {name for name in changed if not name.startswith('head.')} == adapted
