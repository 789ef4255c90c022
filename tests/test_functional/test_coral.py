import numpy as np
import pytest
import torch

from tl_plugin.functional import coral_loss, covariance


def _domains(num_source=9, num_target=5, width=4):
    random = np.random.default_rng(0)
    return random.normal(size=(num_source, width)), 3 * random.normal(size=(num_target, width)) + 1


def test_covariance_is_numpys():
    source, _ = _domains()
    np.testing.assert_allclose(covariance(torch.tensor(source)), np.cov(source.T), atol=1e-12)


def test_loss_is_the_papers_formula():
    source, target = _domains()
    difference = np.cov(source, rowvar=False) - np.cov(target, rowvar=False)
    expected = np.linalg.norm(difference, 'fro') ** 2 / (4 * 4**2)
    found = coral_loss(torch.tensor(source), torch.tensor(target))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_means_do_not_matter():
    source, target = (torch.tensor(part) for part in _domains())
    torch.testing.assert_close(coral_loss(source + 7, target), coral_loss(source, target))


def test_gradient():
    source, target = (torch.tensor(part, requires_grad=True) for part in _domains(4, 3, 2))
    assert torch.autograd.gradcheck(coral_loss, (source, target))


@pytest.mark.parametrize(('num_source', 'num_target'), [(1, 4), (4, 1), (0, 4)])
def test_a_single_image_has_no_covariance(num_source, num_target):
    with pytest.raises(ValueError, match=f'got {num_source} source and {num_target} target'):
        coral_loss(torch.zeros(num_source, 2), torch.zeros(num_target, 2))
