import numpy as np
import torch

from tl_plugin.functional import multilinear_map, random_multilinear_map


def _inputs(size=5):
    random = np.random.default_rng(0)
    return random.normal(size=(size, 4)), random.dirichlet(np.ones(3), size=size)


def test_map_is_the_kronecker_product():
    features, predictions = _inputs()
    expected = [np.kron(f, g) for f, g in zip(features, predictions)]
    np.testing.assert_allclose(
        multilinear_map(torch.tensor(features), torch.tensor(predictions)), expected
    )


def test_random_map_keeps_inner_products():
    """In expectation those of the outer products (theorem 1 of the paper)."""
    features, predictions = (torch.tensor(part) for part in _inputs())
    torch.manual_seed(0)
    projections = [torch.randn(width, 200_000, dtype=torch.double) for width in (4, 3)]
    short = random_multilinear_map(features, predictions, *projections)
    long = multilinear_map(features, predictions)
    np.testing.assert_allclose(short @ short.T, long @ long.T, atol=0.03 * float(long.norm() ** 2))


def test_random_map_is_the_papers_formula():
    features, predictions = _inputs()
    random = np.random.default_rng(1)
    projections = [random.normal(size=(width, 7)) for width in (4, 3)]
    expected = (features @ projections[0]) * (predictions @ projections[1]) / np.sqrt(7)
    found = random_multilinear_map(
        *(torch.tensor(part) for part in (features, predictions, *projections))
    )
    np.testing.assert_allclose(found, expected)
