"""The mean teacher."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import target, toy_config, train

from .test_adaptation_classifier import _inputs, _model, _samples

PSEUDO = dict(pseudo_label=dict(type='PseudoLabelAlignment', threshold=0.0, ramp=False))
TAUGHT = dict(pseudo_label=dict(PSEUDO['pseudo_label'], teacher_momentum=0.7))


def _data(step):
    views = [_inputs(4, 50 + step), _inputs(4, 90 + step)]
    source = dict(inputs=_inputs(5, step), data_samples=_samples(5))
    return dict(source=source, target=dict(inputs=views))


def _step(model, optimizer, step):
    model.update_teacher()
    model.train_step(_data(step), optimizer)


def _optimizer(model):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))


def _weights(model):
    state = model.state_dict()
    return {k: v.clone() for k, v in state.items() if k.startswith(('backbone', 'head'))}


def test_it_is_the_mean_written_as_a_loop():
    model = _model(alignments=TAUGHT)
    optimizer = _optimizer(model)
    mean, predicted = None, []
    model.alignments['pseudo_label'].register_forward_pre_hook(
        lambda _, args: predicted.append(args[1].teacher_logits)
    )
    for step in range(5):
        now = _weights(model)
        share = 1 if step == 0 else max(1 - step / (step + 1), 1 - 0.7)
        mean = (
            now
            if mean is None
            else {
                key: mean[key] + share * (now[key] - mean[key])
                if now[key].is_floating_point()
                else now[key]
                for key in now
            }
        )
        _step(model, optimizer, step)
    for key, value in mean.items():
        found = model.teacher.state_dict()[key.replace('.', '/')]
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6)

    teacher = _model()
    teacher.load_state_dict(mean)
    images = model.data_preprocessor(_data(4), True)['inputs'][5:9]
    torch.testing.assert_close(predicted[-1], teacher.eval()(images), rtol=1e-3, atol=1e-5)
    assert not predicted[-1].requires_grad


def test_it_is_nothing_that_trains_and_leaves_the_model_as_it_was():
    model, plain = _model(alignments=TAUGHT), _model(alignments=PSEUDO)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    before = [module.training for module in model.modules()]
    model.update_teacher()
    model.loss(**model.data_preprocessor(_data(0), True))
    assert [module.training for module in model.modules()] == before
    assert float(model.teacher.updates) == 1


def test_a_source_checkpoint_starts_it():
    plain, model = _model(alignments=PSEUDO), _model(alignments=TAUGHT)
    _step(plain, _optimizer(plain), 0)
    model.load_state_dict(plain.state_dict(), strict=False)
    model.update_teacher()
    found = model.teacher.state_dict()['backbone/conv1/weight']
    assert torch.equal(found, plain.backbone.conv1.weight)


def test_a_copy_goes_on_by_itself():
    model = _model(alignments=TAUGHT)
    twin = copy.deepcopy(model)
    _step(model, _optimizer(model), 0)
    assert float(twin.teacher.updates) == 0


def _config(work_dir, **options):
    head = {'model.alignments.pseudo_label.ramp': False}
    return toy_config(
        work_dir, ['mean_teacher', 'fine_tune'], {**target(), **head, **options}, max_iters=4
    )


def test_a_resumed_run_ends_alike(tmp_path):
    whole = train(_config(tmp_path / 'whole'))
    cfg = _config(tmp_path / 'parts')
    cfg.train_cfg.max_iters = 2
    train(cfg)
    checkpoint = str(tmp_path / 'parts' / 'iter_2.pth')
    # Without a random strong view, which another hook takes care of.
    parts = train(_config(tmp_path / 'parts', load_from=checkpoint, resume=True))
    states = [runner.model.state_dict() for runner in (whole, parts)]
    assert float(states[0]['teacher.updates']) == 4
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_it_follows_once_an_optimizer_step(tmp_path):
    """Two iterations a step: two updates, as the run of two iterations has."""
    options = {'optim_wrapper.accumulative_counts': 2}
    runner = train(_config(tmp_path, **options))
    assert float(runner.model.teacher.updates) == 2


def _on_rank(work_dir):
    runner = train(
        _config(
            work_dir,
            launcher='pytorch',
            model_wrapper_cfg=CPU_MODEL_WRAPPER,
            **{'env_cfg.dist_cfg': dict(backend='gloo')},
        )
    )
    state = runner.model.module.state_dict()
    return {k: v for k, v in state.items() if 'running' not in k and k.startswith('teacher')}


def test_processes_have_one_teacher(tmp_path):
    one, other = run_distributed(_on_rank, str(tmp_path))
    assert len(one) > 10 and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize('momentum', [1.0, -0.1])
def test_momentum_out_of_range(momentum):
    head = dict(TAUGHT['pseudo_label'], teacher_momentum=momentum)
    with pytest.raises(ValueError, match=r'teacher_momentum must be in \[0, 1\)'):
        _model(alignments=dict(pseudo_label=head))


def test_two_teachers_are_refused():
    other = dict(TAUGHT['pseudo_label'], teacher_momentum=0.5)
    with pytest.raises(ValueError, match=r'one teacher, got several .*\[0.5, 0.7\]'):
        _model(alignments=dict(TAUGHT, other=other))
