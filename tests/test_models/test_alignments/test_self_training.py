"""Self-training: the loss against numpy, and what a run begins with, saves and refuses."""

import numpy as np
import pytest
import torch

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.toy import target, toy_config, train
from tl_plugin.functional import surest_of_each_class
from tl_plugin.reliability.checkpoints import read_whole

from .batches import build, domain, softmax


@pytest.mark.parametrize('progress', [0.0, 0.2, 0.5, 1.0])
def test_the_loss_is_that_of_a_loop(progress):
    batch = domain(9, scale=2.0)
    labels = [2, -1, 0, -1, 1, 1, -1, 0, 2]
    batch = batch._replace(pseudo_labels=torch.tensor(labels))
    weak, strong, teacher = (
        softmax(part.detach().double().numpy())
        for part in (batch.logits, batch.strong_logits, batch.teacher_logits)
    )
    given = np.mean(
        [-np.log(p[i, k]) for p in (weak, strong) for i, k in enumerate(labels) if k >= 0]
    )
    taught = np.mean([-t.max() * np.log(s[t.argmax()]) for s, t in zip(strong, teacher)])
    alpha = 0.5 - 0.5 * np.cos(np.pi * min(1, 2 * progress))
    alignment = build('SelfTrainingAlignment', progress)
    loss = alignment(domain(3), batch)
    assert loss.item() == pytest.approx((1 - alpha) * given + alpha * taught, rel=1e-4)
    agreeing = [t.argmax() == k for t, k in zip(teacher, labels) if k >= 0]
    assert alignment.diagnostics['agreement'].item() == pytest.approx(np.mean(agreeing))
    assert alignment.diagnostics['confidence'].item() == pytest.approx(teacher.max(1).mean())


def test_no_label_at_all_is_no_division_by_zero():
    batch = domain(4)._replace(pseudo_labels=torch.full((4,), -1))
    loss = build('SelfTrainingAlignment', 0.1)(domain(3), batch)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(batch.strong_logits.grad).all()


def test_errors():
    batch = domain(3)
    alignment = build('SelfTrainingAlignment')
    with pytest.raises(ValueError, match=r'set train_cfg\.strong_view'):
        alignment(batch, batch._replace(strong_logits=None))
    with pytest.raises(ValueError, match='FrozenAlignmentHook'):
        alignment(batch, batch._replace(pseudo_labels=None))
    with pytest.raises(ValueError, match=r'teacher_momentum must be in \[0, 1\)'):
        build('SelfTrainingAlignment', teacher_momentum=1.0)


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp('source')
    train(toy_config(folder, max_epochs=1))
    return str(folder / 'epoch_1.pth')


def _config(folder, start, options=None, iters=4):
    options = {**target(), 'load_from': start, **(options or {})}
    cfg = toy_config(folder, ['self_training'], options, max_iters=iters)
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='ExactResumeHook')]
    return cfg


@pytest.fixture(scope='module')
def run(tmp_path_factory, start):
    return train(_config(tmp_path_factory.mktemp('run'), start))


def test_it_begins_with_what_frozen_alignment_finds(tmp_path, start, run):
    """The last layer is that rung's to the bit and stays; labels are its surest predictions."""
    alone = toy_config(tmp_path, ['frozen_alignment'], {**target(), 'load_from': start})
    fitted = train(alone).model
    for name, value in fitted.head.named_parameters():
        assert torch.equal(value, run.model.head.get_parameter(name)), name
    loader = alone.test_dataloader
    loader.dataset.update(target()['train_cfg.target_dataloader']['dataset'])
    batches = run.build_dataloader(loader)
    found = []
    for batch in batches:
        images = fitted.eval().data_preprocessor(batch, False)['inputs']
        both = [fitted.extract_feat(x)[-1] for x in (images, images.flip(-1))]
        found.append(fitted.head((sum(both) / 2,)).softmax(1))
    probabilities = torch.cat(found).detach()
    expected = torch.full((9,), -1)
    kept = surest_of_each_class(probabilities, 0.6)
    expected[kept] = probabilities.argmax(1)[kept]
    assert torch.equal(run.model._pseudo_labels, expected)


def test_batch_norms_keep_their_statistics_and_train_their_weights(run, start):
    before = read_whole(start)['state_dict']
    after = run.model.state_dict()
    changed = {
        name.rpartition('.')[2]
        for name, value in before.items()
        if name.startswith('backbone') and not torch.equal(value, after[name])
    }
    assert changed == {'weight', 'bias'}
    assert run.model.alignments['self_training'].progress == 0.75


def test_a_resumed_run_ends_alike_and_fits_nothing(tmp_path, start, run, monkeypatch):
    monkeypatch.setattr(
        'tl_plugin.engine.hooks.frozen_alignment_hook.fit_last_layer',
        lambda *_, **__: pytest.fail('fitted again'),
    )
    options = dict(load_from=str(run.work_dir) + '/iter_2.pth', resume=True)
    parts = train(_config(tmp_path / 'parts', start, options))
    found = parts.model.state_dict()
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, found[key]), key


def _on_rank(work_dir, start):
    options = {'env_cfg.dist_cfg': dict(backend='gloo'), 'model_wrapper_cfg': CPU_MODEL_WRAPPER}
    runner = train(_config(work_dir, start, {'launcher': 'pytorch', **options}, iters=2))
    model = runner.model.module
    return dict(model.named_parameters()), model._pseudo_labels


def test_processes_have_one_model_and_the_labels_of_one(tmp_path, start, run):
    (one, labels), (other, same) = run_distributed(_on_rank, str(tmp_path), start)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert torch.equal(labels, same) and torch.equal(labels, run.model._pseudo_labels)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'custom_hooks.FrozenAlignmentHook.share': 1.5}, r'share must be in \(0, 1\]'),
        ({'load_from': None, **{'model.neck': dict(type='BottleneckNeck')}}, 'random weights'),
        ({'model.domain_specific_bn': True}, 'set one of the two to False'),
    ],
)
def test_what_it_refuses(tmp_path, start, options, said):
    if 'model.neck' in options:
        options = {**options, 'model.neck': dict(_delete_=True, type='BottleneckNeck')}
        options['model.head.in_channels'] = None
    cfg = _config(tmp_path, start)
    share = options.pop('custom_hooks.FrozenAlignmentHook.share', 0.6)
    cfg.custom_hooks[0].share = share
    cfg.merge_from_dict(options)
    with pytest.raises(ValueError, match=said):
        train(cfg)
