import numpy as np
import pytest
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from .batches import build, domain, numpy_parts, softmax


def test_value_is_that_of_scikit_learns_kernels():
    source, target = domain(6), domain(4, seed=1)
    both, logits = (np.concatenate(pair) for pair in zip(*numpy_parts(source, target)))
    unit = euclidean_distances(both, squared=True).sum() / (10 * 9)
    kernel = np.mean([rbf_kernel(both, gamma=1 / (b * unit)) for b in (0.5, 1.0)], axis=0)
    kernel = kernel * rbf_kernel(softmax(logits), gamma=1 / 1.3)
    terms = [(k.sum() - len(k)) / (len(k) * (len(k) - 1)) for k in (kernel[:6, :6], kernel[6:, 6:])]
    expected = sum(terms) - 2 * kernel[:6, 6:].mean()
    alignment = build('JANAlignment', bandwidths=[0.5, 1.0], prediction_bandwidth=1.3)
    assert alignment(source, target).item() == pytest.approx(expected, abs=1e-6)


def test_gradient_reaches_features_and_predictions():
    source, target = domain(6), domain(4, seed=1)
    build('JANAlignment')(source, target).backward()
    for batch in (source, target):
        assert batch.features.grad.abs().sum() > 0
        assert batch.logits.grad.abs().sum() > 0
