import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from tl_plugin.functional import gaussian_kernel, squared_distances


def _points(size=7, width=5, offset=0.0):
    return np.random.default_rng(0).normal(size=(size, width)) + offset


def test_distances_are_scipys():
    points = _points()
    expected = cdist(points, points, 'sqeuclidean')
    np.testing.assert_allclose(squared_distances(torch.tensor(points)), expected, atol=1e-12)


def test_distances_far_from_the_origin_keep_their_digits():
    points = torch.tensor(_points(offset=1000.0), dtype=torch.float32)
    exact = cdist(points.double(), points.double(), 'sqeuclidean')
    np.testing.assert_allclose(squared_distances(points), exact, rtol=1e-3, atol=1e-3)


def test_distances_have_a_finite_gradient_at_zero():
    points = torch.ones(3, 2, requires_grad=True)
    squared_distances(points).sum().backward()
    assert torch.equal(points.grad, torch.zeros(3, 2))


@pytest.mark.parametrize('scale', [None, 0.7])
def test_kernel_is_the_mean_of_scikit_learns(scale):
    points = _points()
    distances = cdist(points, points, 'sqeuclidean')
    unit = scale or distances[~np.eye(len(points), dtype=bool)].mean()
    expected = np.mean([rbf_kernel(points, gamma=1 / (b * unit)) for b in (0.5, 3.0)], axis=0)
    found = gaussian_kernel(torch.tensor(points), [0.5, 3.0], scale)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_kernel_does_not_depend_on_the_unit_of_the_features():
    points = torch.tensor(_points())
    torch.testing.assert_close(
        gaussian_kernel(points, [0.5, 1.0]), gaussian_kernel(1e-3 * points, [0.5, 1.0])
    )


def test_gradient_of_the_kernel():
    points = torch.tensor(_points(4, 3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gaussian_kernel(x, [0.5, 2.0], 1.5), points)


def test_the_mean_distance_is_a_constant():
    """Else spreading all points would pay."""
    points, same = (torch.tensor(_points(4, 3), requires_grad=True) for _ in range(2))
    scale = float(squared_distances(points.detach()).sum() / 12)
    gaussian_kernel(points, [0.5, 2.0])[0].sum().backward()
    gaussian_kernel(same, [0.5, 2.0], scale)[0].sum().backward()
    torch.testing.assert_close(points.grad, same.grad)


def test_equal_points_have_kernel_one_and_no_gradient():
    points = torch.full((4, 3), 2.0, requires_grad=True)
    kernel = gaussian_kernel(points, [0.25, 1.0])
    kernel.sum().backward()
    assert torch.equal(kernel, torch.ones(4, 4))
    assert torch.equal(points.grad, torch.zeros(4, 3))


@pytest.mark.parametrize('bandwidths', [[], [1.0, 0.0], [-1.0]])
def test_impossible_bandwidths(bandwidths):
    with pytest.raises(ValueError, match='bandwidths must be positive'):
        gaussian_kernel(torch.zeros(2, 2), bandwidths)
