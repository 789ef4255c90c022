import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from tl_plugin.functional import cosine_ramp, pseudo_label_loss, relative_threshold

from ..test_adaptation_classifier import _inputs, _model
from .batches import build, domain, softmax


def _expected(source, weak, strong, threshold, relative):
    """FixMatch's equation 4 and AdaMatch's equation 5 as a loop."""
    if relative:
        threshold = threshold * np.mean([row.max() for row in softmax(source)])
    total, count = 0.0, 0
    for weak_row, strong_row in zip(softmax(weak), softmax(strong)):
        if weak_row.max() >= threshold:
            total -= np.log(strong_row[weak_row.argmax()])
            count += 1
    return total / len(weak), count / len(weak)


@pytest.mark.parametrize('relative', [True, False])
@pytest.mark.parametrize('threshold', [0.0, 0.6, 1.0])
def test_value_is_that_of_a_loop(relative, threshold):
    source, target = domain(7, scale=2.0), domain(9, seed=1, scale=2.0)
    logits = [
        part.detach().double().numpy()
        for part in (source.logits, target.logits, target.strong_logits)
    ]
    expected, share = _expected(*logits, threshold, relative)
    alignment = build('PseudoLabelAlignment', threshold=threshold, relative=relative, ramp=False)
    assert alignment(source, target).item() == pytest.approx(expected, rel=1e-5)
    assert alignment.diagnostics['confident'].item() == pytest.approx(share)


def test_only_the_strong_view_learns():
    source, target = domain(5), domain(4, seed=1)
    build('PseudoLabelAlignment', threshold=0.0)(source, target).backward()
    assert target.strong_logits.grad.abs().sum() > 0
    assert target.logits.grad is None and source.logits.grad is None


def test_it_fades_in_over_the_first_half_of_training():
    source, target = domain(5), domain(4, seed=1)
    full = build('PseudoLabelAlignment', threshold=0.0, ramp=False)(source, target)
    for progress in (0.0, 0.1, 0.25, 0.5, 0.9):
        weight = 0.5 - 0.5 * np.cos(min(np.pi, 2 * np.pi * progress))
        found = build('PseudoLabelAlignment', progress, threshold=0.0)(source, target)
        torch.testing.assert_close(found, weight * full)
        assert cosine_ramp(torch.tensor(progress)).item() == pytest.approx(weight, abs=1e-6)


def test_errors():
    with pytest.raises(ValueError, match='threshold must be in'):
        build('PseudoLabelAlignment', threshold=1.5)
    with pytest.raises(ValueError, match=r'set train_cfg\.strong_view'):
        build('PseudoLabelAlignment')(domain(3), domain(3)._replace(strong_logits=None))
    with pytest.raises(ValueError, match=r'\(3, 4\) and \(2, 4\)'):
        pseudo_label_loss(torch.zeros(3, 4), torch.zeros(2, 4), 0.5)
    with pytest.raises(ValueError, match='0 source'):
        relative_threshold(torch.zeros(0, 4), 0.5)


def adamatch(source, weak, strong, threshold=0.9, balanced=False):
    """AdaMatch's equations 2 to 5 as loops; scores in, loss and share of images out."""
    p_source, p_target = softmax(source), softmax(weak)
    limit = threshold * np.mean([row.max() for row in p_source])
    ratio = p_source.mean(0) / p_target.mean(0)
    aligned = [row * ratio / (row * ratio).sum() for row in p_target]
    chosen = [row.max() >= limit for row in aligned]
    counts = np.zeros(len(ratio))
    for row, counted in zip(aligned, chosen):
        counts[row.argmax()] += counted
    total = 0.0
    for row, strong_row, counted in zip(aligned, softmax(strong), chosen):
        weight = sum(chosen) / (counts > 0).sum() / counts[row.argmax()] if balanced else 1.0
        if counted:
            total -= weight * (row * np.log(strong_row)).sum()
    return total / len(weak), np.mean(chosen)


ADAMATCH = dict(distribution_alignment=True, soft_labels=True, logit_interpolation=True)


@pytest.mark.parametrize('balanced', [False, True])
@pytest.mark.parametrize('threshold', [0.0, 0.9, 1.0])
def test_adamatch_is_that_of_loops(threshold, balanced):
    source, target = domain(7, scale=2.0), domain(9, seed=1, scale=2.0)
    logits = [
        part.detach().double().numpy()
        for part in (source.logits, target.logits, target.strong_logits)
    ]
    expected, share = adamatch(*logits, threshold, balanced)
    alignment = build(
        'PseudoLabelAlignment',
        threshold=threshold,
        ramp=False,
        class_balanced=balanced,
        **ADAMATCH,
    )
    assert alignment(source, target).item() == pytest.approx(expected, rel=1e-5)
    assert alignment.diagnostics['confident'].item() == pytest.approx(share)
    # Scores that the source learned, where there are some, are what the target is compared with.
    other = domain(7, seed=5).logits.detach()
    expected, _ = adamatch(other.double().numpy(), *logits[1:], threshold, balanced)
    found = alignment(source._replace(interpolated_logits=other), target)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('norm', [True, False], ids=['batch_norm', 'no_batch_norm'])
def test_a_step_of_adamatch_with_and_without_batch_norm(norm):
    """Two explicit passes, one of them of the source alone, and one set of running statistics."""
    options = dict(
        backbone=dict(type='DANNDigitsBackbone', norm=norm),
        neck=None,
        head=dict(type='LinearClsHead', num_classes=3),
    )
    taught = dict(type='PseudoLabelAlignment', ramp=False, threshold=0.5, **ADAMATCH)
    model, plain = _model(alignments=dict(pseudo=taught), **options), _model(**options)
    plain.load_state_dict(model.state_dict())
    images = [_inputs(4, seed)[..., :28, :28] for seed in range(3)]
    inputs, labels = torch.cat(images), torch.tensor([0, 1, 2, 0])
    samples = [DataSample(metainfo=dict(domain='source')).set_gt_label(k) for k in labels.tolist()]
    samples += [DataSample(metainfo=dict(domain=d)) for d in 4 * ['target'] + 4 * ['target_strong']]
    torch.manual_seed(7)
    losses = model.loss(inputs, samples)
    sum(value for name, value in losses.items() if 'loss' in name).backward()

    scores = plain(inputs).split(4)
    statistics = {name: value.clone() for name, value in plain.named_buffers()}
    alone = plain(images[0])
    torch.manual_seed(7)
    share = torch.rand(4, 3) if norm else 1.0
    between = share * scores[0] + (1 - share) * alone
    cls = torch.nn.functional.cross_entropy(between, labels)
    torch.testing.assert_close(losses['loss_cls'], cls)
    numbers = [part.detach().double().numpy() for part in (between, *scores[1:])]
    expected, _ = adamatch(*numbers, threshold=0.5)
    assert losses['loss_pseudo'].item() == pytest.approx(expected, rel=1e-4)
    for name, value in model.named_buffers():
        if not name.startswith('alignments'):
            assert torch.equal(value, statistics[name]), name
    cls.backward()
    weights = dict(plain.named_parameters())
    assert any(
        not torch.allclose(value.grad, weights[name].grad)  # the target's part
        for name, value in model.named_parameters()
    )


def test_interpolation_is_refused_where_it_cannot_be():
    taught = dict(pseudo=dict(type='PseudoLabelAlignment', **ADAMATCH))
    for options, message in [
        (dict(domain_specific_bn=True), 'domain_specific_bn=True has the latter'),
        (dict(sharpness_rho=0.1), r'and sdat \(model.sharpness_rho\) each change'),
        (dict(head=dict(type='ArcFaceClsHead', num_classes=3)), 'ArcFaceClsHead computes its loss'),
    ]:
        with pytest.raises(ValueError, match=message):
            _model(alignments=taught, **options)
