import numpy as np
import pytest
import torch

from tl_plugin.functional import joint_maximum_mean_discrepancy, maximum_mean_discrepancy

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def _domains(num_source=6, num_target=4, width=5, shift=1.0):
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
    source, target = _domains(num_source, num_target)
    kernel = _multi_kernel(np.concatenate([source, target]), BANDWIDTHS)
    found = maximum_mean_discrepancy(
        torch.tensor(source), torch.tensor(target), BANDWIDTHS, unbiased
    )
    assert found.item() == pytest.approx(_loop(source, target, kernel, unbiased), abs=1e-12)


@pytest.mark.parametrize('unbiased', [True, False])
def test_jmmd_is_the_double_loop_over_products(unbiased):
    first, second = _domains(6, 4, 5), _domains(6, 4, 3, shift=0.2)
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
    source, target = (torch.tensor(part) for part in _domains(20, 15))
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
