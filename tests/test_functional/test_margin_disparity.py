import numpy as np
import pytest
import torch
from scipy.special import softmax

from tl_plugin.functional import log_one_minus_softmax, margin_disparity_loss


def _logits(seed, size, classes=4):
    return np.random.default_rng(seed).normal(size=(size, classes)) * 2


def test_value_is_the_papers():
    source, target = _logits(0, 5), _logits(1, 3)
    source_adversary, target_adversary = _logits(2, 5), _logits(3, 3)
    agree, disagree = [], []
    for scores, other in zip(source, softmax(source_adversary, axis=1)):
        agree.append(-np.log(other[np.argmax(scores)]))
    for scores, other in zip(target, softmax(target_adversary, axis=1)):
        disagree.append(-np.log(1 - other[np.argmax(scores)]))
    expected = 3.0 * np.mean(agree) + np.mean(disagree)
    logits = [torch.tensor(x) for x in (source, target, source_adversary, target_adversary)]
    assert margin_disparity_loss(*logits, margin=3.0).item() == pytest.approx(expected, abs=1e-12)


def test_log_of_the_rest_is_exact_and_has_a_gradient_at_certainty():
    logits = torch.tensor([[1e5, 0.0, 0.0], [0.0, 1e5, 3.0]], requires_grad=True)
    found = log_one_minus_softmax(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([np.log(2) - 1e5, 0.0], dtype=torch.float32))
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_gradients():
    adversary = [torch.tensor(_logits(seed, 3), requires_grad=True) for seed in (2, 3)]
    logits = [torch.tensor(_logits(seed, 3)) for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda *x: margin_disparity_loss(*logits, *x), adversary)


def test_empty_domain_is_refused():
    empty, some = torch.zeros(0, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match='got 2 source and 0 target'):
        margin_disparity_loss(some, empty, some, empty)
