"""Rates follow gradients that are computed again by hand; runs resume and ranks agree."""

import math

import pytest
import torch

from tests.distributed import run_distributed
from tests.tiny_runs import TINY_RESNET, TINY_VIT, state_of, tiny_runner
from tl_plugin.engine.layers import LayerMap
from tl_plugin.reliability.checkpoints import read_whole

OPTIM = dict(
    optimizer=dict(type='AdamW', lr=0.01),
    constructor='LayerwiseLROptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
HOOK = dict(type='RelativeGradientNormHook', batches=2)
SCHEDULE = dict(type='CosineAnnealingLR', T_max=4, eta_min_ratio=0.1, by_epoch=True)


def runner_of(folder, model=TINY_VIT, hooks=(HOOK,), **changes):
    changes = {'optim_wrapper': OPTIM, 'param_scheduler': SCHEDULE, **changes}
    return tiny_runner(folder, model, custom_hooks=list(hooks), **changes)


def rates(runner, key='initial_lr'):
    """Of each layer; of a block with a final norm that has the head's rate, the block's own."""
    groups = runner.optim_wrapper.optimizer.param_groups
    ordered = sorted(groups, key=lambda group: -group[key])
    return {group['layer']: group[key] for group in ordered if group['params']}


def by_hand(runner):
    """Gradients by ``backward``, layer by layer, batch by batch."""
    model = runner.model.eval()
    layers = LayerMap.from_model(model)
    values = dict(model.named_parameters())
    sums = dict.fromkeys(range(layers.num_layers), 0.0)
    loader = runner.build_dataloader(runner.cfg.train_dataloader, seed=runner.seed)
    for _, batch in zip(range(2), loader):
        model.zero_grad()
        data = model.data_preprocessor(batch, True)
        model.loss(data['inputs'], data['data_samples'])['loss'].backward()
        for depth in sums:
            own = [values[name] for name in layers.names(depth) if values[name].requires_grad]
            gradient = torch.cat([v.grad.flatten() for v in own if v.grad is not None]).norm()
            sums[depth] += float(gradient / torch.cat([v.detach().flatten() for v in own]).norm())
    return {depth: value / max(sums.values()) for depth, value in sums.items()}


def start_of(folder, model):
    runner_of(folder, model, hooks=[], train_cfg=dict(max_epochs=1)).train()
    return str(folder / 'epoch_1.pth')


@pytest.mark.parametrize('model', [TINY_VIT, TINY_RESNET], ids=['vit', 'resnet'])
def test_each_layer_gets_its_rate_and_the_run_resumes_to_the_bit(tmp_path, model):
    start = start_of(tmp_path / 'start', model)
    reference = runner_of(tmp_path / 'reference', model, hooks=[])
    reference.model.load_state_dict(read_whole(start)['state_dict'])
    expected = by_hand(reference)

    whole = runner_of(tmp_path / 'whole', model, load_from=start)
    whole.train()
    top = max(expected)
    assert rates(whole).keys() == expected.keys() and len(set(expected.values())) > 3
    for depth, factor in expected.items():
        wanted = 0.01 * 0.9 ** (top - depth) * factor
        assert rates(whole)[depth] == pytest.approx(wanted, rel=1e-3)
        annealed = 0.1 + 0.9 * (1 + math.cos(0.75 * math.pi)) / 2
        assert rates(whole, 'lr')[depth] == pytest.approx(annealed * wanted, rel=1e-3)

    resumed = runner_of(
        tmp_path / 'resumed', model, load_from=str(tmp_path / 'whole/epoch_2.pth'), resume=True
    )
    resumed.train()
    assert rates(resumed, 'lr') == rates(whole, 'lr')
    assert all(torch.equal(v, state_of(whole.model)[n]) for n, v in state_of(resumed.model).items())


def test_measuring_moves_nothing_but_rates(tmp_path):
    start = start_of(tmp_path / 'start', TINY_RESNET)
    changes = dict(load_from=start, train_cfg=dict(max_epochs=1))
    # With equal rates by hand, the run with the hook is the one without it.
    optim = dict(optimizer=dict(type='SGD', lr=0.0))
    states = []
    for name, hooks in (('with', [HOOK]), ('without', [])):
        runner = runner_of(
            tmp_path / name, TINY_RESNET, hooks, optim_wrapper={**OPTIM, **optim}, **changes
        )
        runner.train()
        states.append((state_of(runner.model), torch.get_rng_state()))
    (one, state), (other, other_state) = states
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(state, other_state)


def on_two_ranks(folder):
    hooks = [HOOK, dict(type='SlowLayersFreezeHook', min_rate=0.5, check_ranks=True)]
    runner = runner_of(folder, hooks=hooks, launcher='pytorch', train_cfg=dict(max_epochs=1))
    runner.train()
    frozen = [n for n, v in runner.model.module.named_parameters() if not v.requires_grad]
    return rates(runner), frozen, state_of(runner.model)


def test_two_ranks_agree_about_rates_and_about_what_is_frozen(tmp_path):
    (rate, frozen, one), (other_rate, other_frozen, other) = run_distributed(
        on_two_ranks, str(tmp_path)
    )
    assert rate == other_rate and frozen == other_frozen and frozen
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_slow_layers_cost_no_backward_pass(tmp_path):
    options = dict(paramwise_cfg=dict(layer_decay_rate=0.1, base_lr_mult=0.1, head_lr_mult=10.0))
    hook = dict(type='SlowLayersFreezeHook', min_rate=0.005)
    start = start_of(tmp_path / 'start', TINY_VIT)
    changes = dict(load_from=start, train_cfg=dict(max_epochs=1))
    runner = runner_of(tmp_path / 'it', hooks=[hook], optim_wrapper={**OPTIM, **options}, **changes)
    layers = LayerMap.from_model(runner.model)
    before = read_whole(start)['state_dict']
    runner.train()
    trained = {n for n, v in runner.model.named_parameters() if v.requires_grad}
    # 1, then 0.01, 0.001, ... of the head's rate.
    assert trained == {*layers.names(-1), *layers.names(-2)}
    after = state_of(runner.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained


@pytest.mark.parametrize(
    ('hook', 'changes', 'said'),
    [
        (HOOK, dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))), 'span layers: set'),
        ({**HOOK, 'batches': 0}, {}, 'at least 1, got 0'),
        (dict(type='SlowLayersFreezeHook', min_rate=1.0), {}, r'in \(0, 1\), got 1.0'),
    ],
)
def test_what_they_refuse(tmp_path, hook, changes, said):
    with pytest.raises(ValueError, match=said):
        changes = {'param_scheduler': None, **changes}
        runner_of(tmp_path, hooks=[hook], **changes).train()
