import numpy as np
import pytest

from .batches import build, domain, numpy_parts


@pytest.mark.parametrize('k', [1, 2])
def test_value_is_that_of_numpys_decomposition(k):
    source, target = domain(8), domain(4, seed=1)
    expected = sum(
        (np.linalg.svd(features)[1][:k] ** 2).sum() for features, _ in numpy_parts(source, target)
    )
    found = build('BSPAlignment', k=k)(source, target)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_weight_of_the_paper_is_the_default():
    assert build('BSPAlignment').loss_weight == 1e-4


def test_wrong_arguments():
    with pytest.raises(ValueError, match='BSPAlignment: k must be >= 1, got 0'):
        build('BSPAlignment', k=0)
