"""Masked image consistency against numpy, and what a step does with masked images."""

import copy

import numpy as np
import pytest
import torch

from tests.distributed import CPU_MODEL_WRAPPER, run_distributed
from tests.test_models.test_adaptation_classifier import _inputs, _model, _samples
from tests.toy import target, toy_config, train
from tl_plugin.functional import mask_patches, masked_consistency_loss

from .batches import build, domain, softmax

MIC = dict(mic=dict(type='MaskedConsistency', teacher_momentum=0.5))


def test_the_loss_is_that_of_a_loop():
    batch = domain(9, scale=2.0)
    masked, teacher = (
        softmax(part.detach().double().numpy())
        for part in (batch.masked_logits, batch.teacher_logits)
    )
    expected = np.mean([-t.max() * np.log(m[t.argmax()]) for m, t in zip(masked, teacher)])
    alignment = build('MaskedConsistency')
    loss = alignment(domain(3), batch)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert alignment.diagnostics['confidence'].item() == pytest.approx(teacher.max(1).mean())
    loss.backward()
    assert batch.logits.grad is None and batch.masked_logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ('size', 'patches', 'rows', 'columns'),
    [((28, 28), 4, 7, 7), ((30, 40), 3, 10, 10), ((3, 5), 4, 1, 1), ((224, 224), 4, 56, 56)],
)
def test_whole_patches_are_masked_in_images_of_any_size(size, patches, rows, columns):
    torch.manual_seed(0)
    masked = mask_patches(torch.ones(400, 2, *size), 0.7, patches)
    cells = masked.unfold(2, rows, rows).unfold(3, columns, columns)  # (N, C, i, j, rows, columns)
    assert cells.shape[2] * rows == size[0] and cells.shape[3] * columns == size[1]
    assert torch.equal(cells.amax((1, 4, 5)), cells.amin((1, 4, 5)))
    share = 1 - cells.mean((0, 1, 4, 5))  # of each place, over the images
    assert (share - 0.7).abs().max() < 0.12 and share.mean() == pytest.approx(0.7, abs=0.02)


def test_patches_that_fit_no_size_differ_by_a_pixel():
    widths = set()
    for row in mask_patches(torch.ones(200, 1, 4, 31), 0.5, 4)[:, 0, 0].int().tolist():
        runs = ''.join(map(str, row)).strip('0').split('0')
        widths |= {len(run) for run in runs if run}
    assert len(widths) > 8  # several patches side by side, none torn apart
    assert torch.equal(mask_patches(torch.ones(2, 1, 5, 5), 0.0), torch.ones(2, 1, 5, 5))


def _step(model, seed=0):
    torch.manual_seed(seed)
    samples = _samples(9, num_target=4)
    return model.loss(torch.cat([_inputs(5), _inputs(4, seed=9)]), samples)


def test_masked_images_have_a_forward_of_their_own():
    """The loss from masked images by hand, and running statistics that whole images alone move."""
    model, plain = _model(alignments=MIC), _model()
    plain.load_state_dict(model.state_dict(), strict=False)
    teacher, student = copy.deepcopy(plain).eval(), copy.deepcopy(plain)
    losses = _step(model)
    plain.extract_feat(torch.cat([_inputs(5), _inputs(4, seed=9)]))

    torch.manual_seed(0)
    images = _inputs(4, seed=9)
    scores = student(mask_patches(images), mode='tensor')
    labels = teacher(images, mode='tensor').softmax(1).max(1)
    expected = torch.nn.functional.cross_entropy(scores, labels.indices, reduction='none')
    torch.testing.assert_close(losses['loss_mic'], (labels.values * expected).mean())
    for name, value in plain.named_buffers():
        assert torch.equal(value, model.get_buffer(name)), name


def _config(work_dir, **options):
    return toy_config(work_dir, ['mic', 'mcc'], {**target(), **options}, max_iters=4)


def test_a_resumed_run_ends_alike(tmp_path):
    whole = train(_config(tmp_path / 'whole', custom_hooks=[dict(type='ExactResumeHook')]))
    options = dict(load_from=str(tmp_path / 'whole' / 'iter_2.pth'), resume=True)
    options['custom_hooks'] = [dict(type='ExactResumeHook')]
    parts = train(_config(tmp_path / 'parts', **options))
    found = parts.model.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in whole.model.state_dict().items())


def _on_rank(work_dir):
    options = {'env_cfg.dist_cfg': dict(backend='gloo'), 'model_wrapper_cfg': CPU_MODEL_WRAPPER}
    runner = train(_config(work_dir, launcher='pytorch', **options))
    return dict(runner.model.module.named_parameters())


def test_processes_have_one_model(tmp_path):
    one, other = run_distributed(_on_rank, str(tmp_path))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_shares_the_teacher_of_another_alignment():
    taught = dict(type='PseudoLabelAlignment', teacher_momentum=0.7)
    alone = _model(alignments=dict(mic=dict(type='MaskedConsistency')))
    both = _model(alignments=dict(mic=dict(type='MaskedConsistency'), pseudo_label=taught))
    assert (alone.teacher.momentum, both.teacher.momentum) == (0.9, 0.7)


def test_what_it_refuses():
    for options, message in (
        (dict(ratio=1.0), r'ratio must be in \[0, 1\)'),
        (dict(patches=0), 'patches must be at least 1'),
        (dict(teacher_momentum=1.0), r'teacher_momentum must be in \[0, 1\)'),
    ):
        with pytest.raises(ValueError, match=message):
            build('MaskedConsistency', **options)
    with pytest.raises(ValueError, match=r'\(3, 4\) and \(2, 4\)'):
        masked_consistency_loss(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match='keep one MaskedConsistency'):
        _step(_model(alignments=dict(MIC, again=MIC['mic'])))
