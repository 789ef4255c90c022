import numpy as np
import pytest
import torch

from tl_plugin.functional import cosine_ramp, pseudo_label_loss, relative_threshold

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
