import numpy as np
import pytest
import torch
from scipy.stats import norm

from tl_plugin.functional import (
    black_box_shift,
    expectation_maximization_shift,
    total_variation,
)

CENTRES = np.array([-2.0, 0.0, 2.0])
SOURCE, TARGET = np.array([1 / 3, 1 / 3, 1 / 3]), np.array([0.1, 0.2, 0.7])


def _draw(frequencies, count, seed):
    """Classes and the exact posterior of a classifier that was trained on even classes."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, count, p=frequencies)
    values = random.normal(CENTRES[labels], 1.0)
    densities = norm.pdf(values[:, None], CENTRES) * SOURCE
    return labels, densities / densities.sum(axis=1, keepdims=True)


def _data(target=TARGET, count=4000):
    labels, source = _draw(SOURCE, count, 0)
    _, shifted = _draw(target, count, 1)
    return torch.tensor(source), torch.tensor(labels), torch.tensor(shifted)


def test_both_find_frequencies_that_are_known():
    source, labels, target = _data()
    for found in (
        black_box_shift(source, labels, target),
        expectation_maximization_shift(torch.tensor(SOURCE), target),
    ):
        np.testing.assert_allclose(found.numpy(), TARGET, atol=0.03)
        assert found.sum().item() == pytest.approx(1)


def test_no_shift_is_none():
    source, labels, target = _data(SOURCE)
    found = black_box_shift(source, labels, target)
    assert total_variation(found, torch.tensor(SOURCE)) < 0.03


def test_black_box_is_numpys_solution():
    source, labels, target = _data(count=200)
    joint = np.zeros((3, 3))
    for row, label in zip(source.numpy(), labels.numpy()):
        joint[:, label] += row / len(labels)
    ratios = np.linalg.solve(joint, target.numpy().mean(axis=0)).clip(0)
    expected = ratios * np.bincount(labels) / len(labels)
    found = black_box_shift(source, labels, target)
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), rtol=1e-6)


def test_expectation_maximization_is_at_the_likelihoods_maximum():
    """No frequencies near by are likelier: what the rounds climb is checked, not the rounds."""
    _, _, target = _data(count=500)
    found = expectation_maximization_shift(torch.tensor(SOURCE), target, 1e-10).numpy()

    def likelihood(frequencies):
        return np.log((target.numpy() * frequencies / SOURCE).sum(axis=1)).sum()

    random = np.random.default_rng(2)
    for _ in range(50):
        other = np.abs(found + random.normal(0, 0.02, 3))
        assert likelihood(other / other.sum()) < likelihood(found) + 1e-6


def test_a_class_that_the_source_lacks_gets_nothing():
    source, labels, target = _data(count=300)
    keep = labels != 2
    found = black_box_shift(source[keep], labels[keep], target)
    assert found[2] == 0 and torch.isfinite(found).all()


def test_nothing_to_estimate_from():
    with pytest.raises(ValueError, match='got 0 source predictions'):
        black_box_shift(torch.zeros(0, 3), torch.zeros(0).long(), torch.ones(2, 3) / 3)
    with pytest.raises(ValueError, match='at least one target image'):
        expectation_maximization_shift(torch.ones(3) / 3, torch.zeros(0, 3))
