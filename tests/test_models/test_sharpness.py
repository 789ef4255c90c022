"""The sharpness-aware step on the classification loss against two explicit passes."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import MODELS

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.tiny_runs import TINY_VIT, state_of
from tests.toy import target, toy_config, train
from tl_plugin.functional import ascent_steps

from .test_adaptation_classifier import _inputs, _model, _samples

DANN = dict(dann=dict(type='DANNHead', hidden_channels=[8]))
CDAN = dict(cdan=dict(type='CDANHead', hidden_channels=[8]), mcc=dict(type='MCCAlignment'))
RHO = 0.3


def gradients(model, losses):
    model.zero_grad()
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in model.named_parameters()
    }


@pytest.mark.parametrize('dsbn', [False, True], ids=['joint', 'by_domain'])
@pytest.mark.parametrize('alignments', [DANN, CDAN], ids=['dann', 'cdan_mcc'])
def test_gradient_and_statistics_are_those_of_two_explicit_passes(alignments, dsbn):
    options = dict(alignments=alignments, domain_specific_bn=dsbn)
    model, plain = _model(sharpness_rho=RHO, **options), _model(**options)
    model.head.fc.bias.requires_grad_(False)
    plain.head.fc.bias.requires_grad_(False)
    inputs, samples = _inputs(8), _samples(8, num_target=3)
    for each in (model, plain):
        each.set_progress(0.4)
    before = copy.deepcopy(plain)
    found = gradients(model, model.loss(inputs, samples))

    losses = plain.loss(inputs, samples)
    task = gradients(plain, {'loss': losses.pop('loss_cls')})
    others = gradients(
        before, {k: v for k, v in before.loss(inputs, samples).items() if k != 'loss_cls'}
    )
    length = torch.sqrt(sum(value.square().sum() for value in task.values()))
    worst = _model(**options)
    worst.load_state_dict(_model(**options).state_dict())
    with torch.no_grad():
        for name, value in worst.named_parameters():
            value += RHO * task[name] / length
    loss = worst.loss(inputs, samples)['loss_cls']
    sharp = gradients(worst, {'loss': loss})
    assert loss > losses.get('loss_cls', 0)
    for name, value in found.items():
        expected = others[name] + sharp[name]
        if name == 'head.fc.bias':
            expected = torch.zeros_like(expected)
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5, msg=name)
    for name, value in plain.named_buffers():  # after one pass, the one at the weights
        assert torch.equal(dict(model.named_buffers())[name], value), name
    for name, value in before.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], value), name


def test_a_step_is_as_long_as_asked_and_none_where_a_gradient_overflowed():
    steps = ascent_steps([torch.tensor([[3.0, 0.0]]), torch.tensor([4e3])], 0.5)
    length = torch.cat([step.flatten() for step in steps]).norm()
    torch.testing.assert_close(length, torch.tensor(0.5))
    for bad in (float('inf'), float('nan')):
        steps = ascent_steps([torch.tensor([bad, 1.0]), torch.tensor([2.0])], 0.5)
        assert all(torch.equal(step, torch.zeros_like(step)) for step in steps)
    assert not ascent_steps([torch.zeros(2)], 0.5)[0].any()


def run(folder, max_iters=4, **options):
    options = {
        'optim_wrapper.type': 'CPUAmpOptimWrapper',
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.clip_grad': dict(max_norm=1.0),
        **target(),
        **options,
    }
    names = ['dann', 'mean_teacher', 'l2_sp', 'sdat', 'fine_tune']
    cfg = toy_config(folder, names, options, max_iters=max_iters)
    cfg.custom_hooks += [dict(type='ExactResumeHook')]
    return train(cfg)


def test_it_accumulates_in_half_precision_and_resumes_to_the_bit(tmp_path):
    whole = run(tmp_path / 'whole')
    checkpoint = str(tmp_path / 'whole' / 'iter_3.pth')  # between two optimizer steps
    resumed = run(tmp_path / 'resumed', load_from=checkpoint, resume=True)
    plain = run(tmp_path / 'plain', **{'model.sharpness_rho': 0.0})
    expected, found, other = (state_of(each.model) for each in (whole, resumed, plain))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert any(not torch.equal(value, other[name]) for name, value in expected.items())


VIT = dict(TINY_VIT, type='AdaptationClassifier', sharpness_rho=RHO)


def vit_step(rows, wrap=None):
    """One step on some of eight images; returns the weights after it."""
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(VIT))
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    samples = _samples(8)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    trained = model if wrap is None else wrap(model)
    trained.train_step(dict(inputs=list(images[rows]), data_samples=samples[rows]), optimizer)
    return state_of(model)


def halves_on_ranks():
    import torch.distributed as dist
    from mmengine.registry import MODEL_WRAPPERS

    rank = dist.get_rank()
    wrap = lambda model: MODEL_WRAPPERS.build(dict(CPU_MODEL_WRAPPER, module=model))  # noqa: E731
    return vit_step(slice(4 * rank, 4 * rank + 4), wrap)


def test_two_processes_take_the_mean_of_what_each_would():
    first, second = run_distributed(halves_on_ranks)
    parts = [vit_step(slice(0, 4)), vit_step(slice(4, 8))]
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ('names', 'options', 'message'),
    [
        (['sdat'], {'model.backbone.with_cp': True}, r'again in the backward pass \(with_cp\)'),
        (['sdat'], {'activation_checkpointing': 'backbone.layer1'}, 'backbone.layer1 computes'),
        (
            ['adamatch'],
            {'activation_checkpointing': 'backbone.layer1', **target()},
            'pseudo_label computes a second pass with running statistics of its own',
        ),
        (['shot', 'sdat'], {}, 'training without a source has none: leave it out'),
        (['sdat'], {'model.sharpness_rho': -1.0}, 'sharpness_rho must be 0 or more, got -1'),
    ],
)
def test_what_cannot_be_is_refused_before_a_step(names, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(OptimWrapper, 'update_params', lambda *_, **__: pytest.fail('a step'))
    cfg = toy_config(tmp_path, names, options)
    if 'shot' in names:
        cfg.load_from = str(tmp_path / 'source.pth')
        plain = {**cfg.model.to_dict(), 'alignments': {}, 'data_preprocessor': None}
        torch.save(dict(state_dict=MODELS.build(plain).state_dict()), cfg.load_from)
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_weights_that_are_shared_out_are_refused():
    model = _model(sharpness_rho=RHO)
    fc = model.head.fc
    fc._parameters['weight'] = fc.weight.detach().requires_grad_()  # as FSDP does in a forward
    with pytest.raises(ValueError, match=r'FSDP shares the weights out .* train by DDP'):
        model.loss(_inputs(), _samples())
