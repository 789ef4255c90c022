import numpy as np
import pytest
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from .batches import build, domain, numpy_parts


@pytest.mark.parametrize('unbiased', [True, False])
def test_value_is_that_of_scikit_learns_kernels(unbiased):
    source, target = domain(6), domain(4, seed=1)
    (ours, _), (theirs, _) = numpy_parts(source, target)
    both = np.concatenate([ours, theirs])
    unit = euclidean_distances(both, squared=True).sum() / (10 * 9)
    kernel = np.mean([rbf_kernel(both, gamma=1 / (b * unit)) for b in (0.5, 1.0)], axis=0)
    within = [kernel[:6, :6], kernel[6:, 6:]]
    if unbiased:
        terms = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in within]
    else:
        terms = [k.mean() for k in within]
    expected = sum(terms) - 2 * kernel[:6, 6:].mean()
    alignment = build('DANAlignment', bandwidths=[0.5, 1.0], unbiased=unbiased)
    assert alignment(source, target).item() == pytest.approx(expected, abs=1e-6)


def test_five_bandwidths_around_the_mean_distance_are_the_default():
    assert build('DANAlignment').bandwidths == (0.25, 0.5, 1.0, 2.0, 4.0)
