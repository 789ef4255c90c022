from unittest import mock

import numpy as np
import pytest

from .batches import build, domain, numpy_parts


def test_value_is_that_of_numpys_covariances():
    source, target = domain(6, scale=2.0), domain(4, seed=1)
    (ours, _), (theirs, _) = numpy_parts(source, target)
    difference = np.cov(ours.T) - np.cov(theirs.T)
    expected = np.linalg.norm(difference) ** 2 / (4 * ours.shape[1] ** 2)
    found = build('DeepCORALAlignment')(source, target)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(('num_source', 'num_target'), [(1, 4), (4, 1)])
def test_a_single_image_is_skipped_with_one_warning(num_source, num_target):
    alignment, source, target = build('DeepCORALAlignment'), domain(num_source), domain(num_target)
    logger = mock.Mock()
    with mock.patch('tl_plugin.models.alignments.deep_coral.print_log', logger):
        for _ in range(2):
            loss = alignment(source, target)
    loss.backward()
    assert loss == 0
    assert not source.features.grad.any() and not target.features.grad.any()
    (message,), _ = logger.call_args
    assert logger.call_count == 1
    assert f'here {num_source} source and {num_target} target' in message
