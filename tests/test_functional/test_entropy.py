import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import softmax

from tl_plugin.functional import entropy_loss, marginal_entropy, prediction_entropy


def _logits(scale=2.0):
    return np.random.default_rng(0).normal(size=(7, 4)) * scale


def test_entropies_are_scipys():
    logits = _logits()
    probabilities = softmax(logits, axis=1)
    expected = scipy.stats.entropy(probabilities, axis=1)
    found = torch.tensor(logits)
    np.testing.assert_allclose(prediction_entropy(found), expected, atol=1e-12)
    assert entropy_loss(found).item() == pytest.approx(expected.mean(), abs=1e-12)
    assert marginal_entropy(found).item() == pytest.approx(
        scipy.stats.entropy(probabilities.mean(axis=0)), abs=1e-12
    )


def test_their_difference_is_the_mutual_information():
    """Of images, each drawn equally often, and classes."""
    logits = _logits()
    joint = softmax(logits, axis=1) / len(logits)
    independent = joint.sum(axis=0, keepdims=True) * joint.sum(axis=1, keepdims=True)
    expected = (joint * np.log(joint / independent)).sum()
    found = marginal_entropy(torch.tensor(logits)) - entropy_loss(torch.tensor(logits))
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_certain_predictions_have_finite_gradients(function):
    logits = torch.tensor([[1e5, 0.0, -1e5], [0.0, 1e5, 0.0]], requires_grad=True)
    function(logits).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_gradients(function):
    logits = torch.tensor(_logits()[:3], requires_grad=True)
    assert torch.autograd.gradcheck(function, logits)


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_no_image_is_refused(function):
    with pytest.raises(ValueError, match='at least 1 image of the target, got 0 target'):
        function(torch.zeros(0, 3))
