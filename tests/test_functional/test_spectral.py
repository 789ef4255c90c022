import numpy as np
import pytest
import torch

from tl_plugin.functional import (
    batch_spectral_penalty,
    effective_rank,
    largest_singular_values,
    relative_spread,
)


def _features(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize('shape', [(5, 8), (8, 5), (4, 4), (1, 6)])
@pytest.mark.parametrize('k', [1, 3, 99])
def test_values_are_numpys(shape, k):
    features = _features(shape)
    expected = np.linalg.svd(features, compute_uv=False)[:k] ** 2
    np.testing.assert_allclose(largest_singular_values(torch.tensor(features), k), expected)


def test_penalty_is_the_sum_over_both_domains():
    source, target = _features((5, 8)), _features((3, 8), seed=1)
    expected = sum(
        (np.linalg.svd(part, compute_uv=False)[:2] ** 2).sum() for part in (source, target)
    )
    found = batch_spectral_penalty(torch.tensor(source), torch.tensor(target), k=2)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_the_singular_vectors():
    """d sigma^2 / dX = 2 sigma u v^T."""
    features = torch.tensor(_features((4, 6)), requires_grad=True)
    largest_singular_values(features).sum().backward()
    left, values, right = np.linalg.svd(features.detach().numpy())
    expected = 2 * values[0] * np.outer(left[:, 0], right[0])
    np.testing.assert_allclose(features.grad, expected, atol=1e-12)


@pytest.mark.parametrize('matrix', [torch.zeros(3, 5), torch.eye(4), torch.ones(3, 2)])
@pytest.mark.parametrize('k', [1, 2])
def test_equal_and_zero_values_have_finite_gradients(matrix, k):
    matrix = matrix.clone().requires_grad_()
    largest_singular_values(matrix, k).sum().backward()
    assert torch.isfinite(matrix.grad).all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match='k must be at least 1, got 0'):
        batch_spectral_penalty(torch.ones(2, 2), torch.ones(2, 2), k=0)
    with pytest.raises(ValueError, match='got 0 source and 2 target'):
        batch_spectral_penalty(torch.ones(0, 2), torch.ones(2, 2))


@pytest.mark.parametrize('shape', [(7, 20), (30, 4), (2, 3)])
def test_rank_and_spread_are_those_of_numpy(shape):
    features = np.random.default_rng(0).normal(2.0, 3.0, shape)
    centred = features - features.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.tensor(features)).item() == pytest.approx(rank)
    spread = np.linalg.norm(centred) / np.linalg.norm(features)
    assert relative_spread(torch.tensor(features)).item() == pytest.approx(spread)


def test_one_point_has_neither():
    for features in (torch.zeros(5, 3), torch.full((5, 3), 2.0)):
        assert effective_rank(features) == 0 and relative_spread(features) == 0
