import pytest
import torch
from mmengine.optim import OptimWrapper

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_models.test_adaptation_classifier import DANN, _inputs, _model, _samples
from tests.toy import target, toy_config, train
from tl_plugin.engine.hooks import AdversaryMonitorHook

STRONG = {
    'model.alignments.dann': dict(reversal_weight=1000.0, gamma=None, hidden_channels=[8]),
    **target(),
}
HOOK = dict(type='AdversaryMonitorHook', interval=2, patience=1, backoff=0.5)


def _run(work_dir, max_iters=6, hook=HOOK, **options):
    cfg = toy_config(work_dir, ['dann'], {**STRONG, **options}, max_iters=max_iters)
    cfg.custom_hooks = [hook]
    return train(cfg)


def test_the_ratio_is_that_of_gradients_written_by_hand():
    model = _model(alignments=DANN)
    model.set_progress(0.4)
    model.measure_health()
    inputs, samples = _inputs(8), _samples(8, num_target=3)
    losses = model.loss(inputs, samples)

    features = model.extract_feat(inputs)[-1].detach().requires_grad_()
    task = torch.nn.functional.cross_entropy(model.head.fc(features[:5]), torch.arange(5) % 3)
    logits = model.alignments['dann'].classifier(features)[:, 0]
    softplus = torch.nn.functional.softplus
    domain = 0.5 * (softplus(logits[:5]).mean() + softplus(-logits[5:]).mean())
    norms = [torch.autograd.grad(loss, features)[0].norm() for loss in (domain, task)]
    reversal_weight = model.alignments['dann'].current_reversal_weight()
    expected = reversal_weight * norms[0] / norms[1]
    torch.testing.assert_close(losses['dann_gradient_ratio'], expected, rtol=1e-4, atol=0)


def test_measuring_changes_no_weight_and_no_statistic():
    states = []
    for measures in (False, True):
        model = _model(alignments=DANN)
        model.measure_health(measures)
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(2):
            source = dict(inputs=_inputs(5, seed=step), data_samples=_samples(5))
            model.train_step(dict(source=source, target=dict(inputs=_inputs(3))), optimizer)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_it_measures_at_its_interval_and_backs_off(tmp_path):
    logged = _run(tmp_path).message_hub.log_scalars
    ratios = logged['train/dann_gradient_ratio'].data[0]
    assert len(ratios) == 3 and ratios[0] > 10
    for name in ('feature_norm', 'feature_rank', 'feature_spread'):
        assert len(logged[f'train/{name}'].data[0]) == 3
    factors = logged['train/dann_backoff'].data[0]
    assert list(factors) == [0.5, 0.25, 0.125]
    weights = logged['train/dann_reversal_weight'].data[0]
    assert list(weights) == [1000, 1000, 500, 500, 250, 250]


def test_a_resumed_run_backs_off_alike(tmp_path):
    stop = 3  # within an interval
    whole = _run(tmp_path / 'whole')
    # gamma=None: what a schedule would make of another length isn't of interest here.
    _run(tmp_path / 'parts', max_iters=stop)
    checkpoint = str(tmp_path / 'parts' / f'iter_{stop}.pth')
    parts = _run(tmp_path / 'parts', load_from=checkpoint, resume=True)
    monitors = [_hook(runner).monitors['dann'].state for runner in (whole, parts)]
    assert monitors[0]['factor'] == monitors[1]['factor'] == 0.125
    assert monitors[0]['counts'] == monitors[1]['counts']
    assert monitors[0]['peak'] == pytest.approx(monitors[1]['peak'])


def _hook(runner):
    return next(hook for hook in runner.hooks if type(hook).__name__ == HOOK['type'])


def test_it_warns_by_name(tmp_path):
    runner = _run(tmp_path, hook={**HOOK, 'backoff': None})
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert text.count('the adversary drowns the task: its gradient at the features is') == 1
    assert 'train/dann_backoff' not in runner.message_hub.log_scalars


def test_a_discriminator_that_does_not_learn_is_called_dead(tmp_path):
    # Two domains that differ in their noise alone, so that nothing can tell them apart.
    options = {**target(shift=0.0, seed=1, size=12), 'model.alignments.dann.reversal_weight': 1.0}
    _run(tmp_path, hook={**HOOK, 'limits': dict(dead_margin=0.4)}, **options)
    assert 'the discriminator is dead: its accuracy was never' in (
        next(tmp_path.glob('*/*.log')).read_text()
    )


def test_of_several_the_first_watches_over_all(tmp_path):
    cfg = toy_config(tmp_path, ['dann', 'mdd'], target(), max_iters=2)
    for hook, interval in zip(cfg.custom_hooks, (1, 2)):
        hook.interval = interval
    runner = train(cfg)
    assert set(_hook(runner).monitors) == {'dann', 'mdd'}
    assert len(runner.message_hub.log_scalars['train/mdd_gradient_ratio'].data[0]) == 2


def test_a_model_without_an_adversary_is_refused(tmp_path):
    cfg = toy_config(tmp_path, ['mcc'], target(), max_iters=1)
    cfg.custom_hooks = [HOOK]
    with pytest.raises(ValueError, match='no adversarial alignment to watch; add one'):
        train(cfg)


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(interval=0), 'at least 1, got 0'),
        (dict(backoff=1.0), r'\(0, 1\), got 1.0'),
        (dict(min_factor=2), r'\[0, 1\], got 2'),
        (dict(limits=dict(max_ration=3)), 'has the limits dead_margin, .* got max_ration'),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        AdversaryMonitorHook(**wrong)


def _on_two_ranks(work_dir):
    options = {'launcher': 'pytorch', 'model_wrapper_cfg': CPU_MODEL_WRAPPER}
    options['env_cfg.dist_cfg'] = dict(backend='gloo')
    runner = _run(work_dir, **options)
    weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
    return _hook(runner).monitors['dann'].state, weights.sum().item()


def test_two_processes_come_to_one_verdict(tmp_path):
    (one, weights), (two, others) = run_distributed(_on_two_ranks, str(tmp_path))
    assert one == two and weights == others
    assert one['factor'] < 1
