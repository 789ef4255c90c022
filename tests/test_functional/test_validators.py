import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity

from tl_plugin.functional.validators import (
    batch_nuclear_norm,
    information_maximization,
    mean_entropy,
    soft_neighborhood_density,
)


def _probabilities(count=37, classes=5, sharpness=2.0):
    logits = np.random.default_rng(0).normal(size=(count, classes)) * sharpness
    return softmax(logits, axis=1)


@pytest.mark.parametrize('shape', [(37, 5), (3, 8)])
def test_values_are_those_of_scipy(shape):
    p = _probabilities(*shape)
    t = torch.tensor(p)
    assert mean_entropy(t).item() == pytest.approx(entropy(p, axis=1).mean())
    expected = entropy(p.mean(0)) - entropy(p, axis=1).mean()
    assert information_maximization(t).item() == pytest.approx(expected)
    norm = np.linalg.norm(p, ord='nuc') / np.sqrt(shape[0] * min(shape))
    assert batch_nuclear_norm(t).item() == pytest.approx(norm)


@pytest.mark.parametrize('chunk, most', [(5, 8192), (1024, 37), (4, 12)])
def test_neighborhood_density_is_that_of_a_loop(chunk, most):
    p = _probabilities()
    similarity = cosine_similarity(p) / 0.05
    entropies = [entropy(softmax(np.delete(similarity[index], index))) for index in range(len(p))]
    found = soft_neighborhood_density(torch.tensor(p), chunk=chunk, most=most)
    averaged = [entropies[at * 37 // min(most, 37)] for at in range(min(most, 37))]
    assert found.item() == pytest.approx(np.mean(averaged))


def test_certain_and_diverse_is_best_certain_and_equal_is_not():
    diverse, collapsed = torch.eye(4).repeat(5, 1), torch.eye(4)[:1].repeat(20, 1)
    assert mean_entropy(diverse) == mean_entropy(collapsed) == 0
    assert information_maximization(diverse).item() == pytest.approx(np.log(4))
    assert information_maximization(collapsed).item() == pytest.approx(0)
    assert batch_nuclear_norm(diverse).item() == pytest.approx(1)
    assert batch_nuclear_norm(collapsed).item() == pytest.approx(0.5)


def test_one_image_has_no_neighbours():
    with pytest.raises(ValueError, match='2 images or more, got 1'):
        soft_neighborhood_density(torch.ones(1, 3) / 3)
