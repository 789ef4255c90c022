import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from tl_plugin.functional import (
    coral_loss,
    covariance,
    feature_norms,
    gaussian_kernel,
    hard_feature_norm_loss,
    joint_maximum_mean_discrepancy,
    maximum_mean_discrepancy,
    squared_distances,
    stepwise_feature_norm_loss,
)


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


BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def _domains_mmd(num_source=6, num_target=4, width=5, shift=1.0):
    random = np.random.default_rng(0)
    source = random.normal(size=(num_source, width))
    return source, random.normal(size=(num_target, width)) + shift


def _mean_squared_distance(points):
    pairs = [((a - b) ** 2).sum() for i, a in enumerate(points) for b in points[i + 1 :]]
    return np.mean(pairs)


def _loop(source, target, kernel, unbiased):
    """The estimate as the papers write it, pair by pair."""

    def mean(first, second, skip):
        values = [
            kernel(i, j) for i in first for j in second if not (skip and i == j and len(first) > 1)
        ]
        return np.mean(values)

    num = len(source) + len(target)
    ours, theirs = range(len(source)), range(len(source), num)
    return (
        mean(ours, ours, unbiased) + mean(theirs, theirs, unbiased) - 2 * mean(ours, theirs, False)
    )


def _multi_kernel(points, bandwidths, scale=None):
    scale = _mean_squared_distance(points) if scale is None else scale

    def kernel(i, j):
        distance = ((points[i] - points[j]) ** 2).sum()
        return sum(np.exp(-distance / (b * scale)) for b in bandwidths) / len(bandwidths)

    return kernel


@pytest.mark.parametrize('unbiased', [True, False])
@pytest.mark.parametrize(('num_source', 'num_target'), [(6, 4), (3, 7), (5, 5), (4, 1)])
def test_mmd_is_the_double_loop(num_source, num_target, unbiased):
    source, target = _domains_mmd(num_source, num_target)
    kernel = _multi_kernel(np.concatenate([source, target]), BANDWIDTHS)
    found = maximum_mean_discrepancy(
        torch.tensor(source), torch.tensor(target), BANDWIDTHS, unbiased
    )
    assert found.item() == pytest.approx(_loop(source, target, kernel, unbiased), abs=1e-12)


@pytest.mark.parametrize('unbiased', [True, False])
def test_jmmd_is_the_double_loop_over_products(unbiased):
    first, second = _domains_mmd(6, 4, 5), _domains_mmd(6, 4, 3, shift=0.2)
    layers = [np.concatenate(pair) for pair in (first, second)]
    kernels = [_multi_kernel(layers[0], BANDWIDTHS), _multi_kernel(layers[1], [1.68], 1.0)]
    expected = _loop(*first, lambda i, j: kernels[0](i, j) * kernels[1](i, j), unbiased)
    source, target = ([torch.tensor(layer[index]) for layer in (first, second)] for index in (0, 1))
    found = joint_maximum_mean_discrepancy(
        source, target, [BANDWIDTHS, [1.68]], [None, 1.0], unbiased
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_unbiased_is_unbiased():
    """Mean over many pairs of samples of one distribution: 0, where the V-statistic isn't."""
    torch.manual_seed(0)
    samples = torch.randn(400, 2, 8, 3, dtype=torch.double)
    means = {
        unbiased: np.mean([maximum_mean_discrepancy(*s, (1.0,), unbiased).item() for s in samples])
        for unbiased in (True, False)
    }
    assert abs(means[True]) < 0.005
    assert means[False] > 0.05


def test_descending_brings_domains_together():
    source, target = (torch.tensor(part) for part in _domains_mmd(20, 15))
    target.requires_grad_()
    first = maximum_mean_discrepancy(source, target).item()
    gap = (source.mean(0) - target.mean(0)).norm()
    for _ in range(100):
        target.grad = None
        maximum_mean_discrepancy(source, target).backward()
        with torch.no_grad():
            target -= 10 * target.grad
    assert maximum_mean_discrepancy(source, target).item() < 0.1 * first
    assert (source.mean(0) - target.mean(0)).norm() < 0.3 * gap


def test_empty_domain_is_refused():
    with pytest.raises(ValueError, match='got 3 source and 0 target'):
        maximum_mean_discrepancy(torch.zeros(3, 2), torch.zeros(0, 2))


def _domains_coral(num_source=9, num_target=5, width=4):
    random = np.random.default_rng(0)
    return random.normal(size=(num_source, width)), 3 * random.normal(size=(num_target, width)) + 1


def test_covariance_is_numpys():
    source, _ = _domains_coral()
    np.testing.assert_allclose(covariance(torch.tensor(source)), np.cov(source.T), atol=1e-12)


def test_loss_is_the_papers_formula():
    source, target = _domains_coral()
    difference = np.cov(source, rowvar=False) - np.cov(target, rowvar=False)
    expected = np.linalg.norm(difference, 'fro') ** 2 / (4 * 4**2)
    found = coral_loss(torch.tensor(source), torch.tensor(target))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_means_do_not_matter():
    source, target = (torch.tensor(part) for part in _domains_coral())
    torch.testing.assert_close(coral_loss(source + 7, target), coral_loss(source, target))


def test_gradient():
    source, target = (torch.tensor(part, requires_grad=True) for part in _domains_coral(4, 3, 2))
    assert torch.autograd.gradcheck(coral_loss, (source, target))


@pytest.mark.parametrize(('num_source', 'num_target'), [(1, 4), (4, 1), (0, 4)])
def test_a_single_image_has_no_covariance(num_source, num_target):
    with pytest.raises(ValueError, match=f'got {num_source} source and {num_target} target'):
        coral_loss(torch.zeros(num_source, 2), torch.zeros(num_target, 2))


def _features():
    return np.random.default_rng(0).normal(size=(6, 4)) * 5


def test_norms_are_numpys_and_finite_where_zero():
    features = _features()
    np.testing.assert_allclose(
        feature_norms(torch.tensor(features)), np.linalg.norm(features, axis=1)
    )
    zero = torch.zeros(2, 3, requires_grad=True)
    feature_norms(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(2, 3))


def test_norms_of_half_precision_features_do_not_overflow():
    features = torch.full((1, 4), 400.0, dtype=torch.float16)  # 400^2 is beyond half precision
    assert feature_norms(features).item() == 800.0


def test_hard_loss():
    norms = np.linalg.norm(_features(), axis=1)
    found = hard_feature_norm_loss(torch.tensor(norms), radius=25.0)
    assert found.item() == pytest.approx((norms.mean() - 25) ** 2)


def test_stepwise_loss_is_the_squared_step_and_its_gradient_points_outwards():
    """By hand: d/dx mean (r + s - |x|)^2 = -2 s / N * x / |x|."""
    features = torch.tensor(_features(), requires_grad=True)
    loss = stepwise_feature_norm_loss(feature_norms(features), step=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.09)
    unit = _features() / np.linalg.norm(_features(), axis=1, keepdims=True)
    np.testing.assert_allclose(features.grad, -2 * 0.3 / 6 * unit, atol=1e-12)
