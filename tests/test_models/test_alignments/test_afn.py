import numpy as np
import pytest

from .batches import build, domain, numpy_parts


def _norms(*batches):
    return [np.linalg.norm(features, axis=1) for features, _ in numpy_parts(*batches)]


def test_hard_value():
    source, target = domain(6, scale=4.0), domain(4, seed=1)
    expected = sum((norms.mean() - 9) ** 2 for norms in _norms(source, target))
    found = build('AFNAlignment', radius=9)(source, target)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_stepwise_value_and_a_step_along_its_gradient():
    """A step of the size that solves one term makes each norm larger by ``step``."""
    source, target = domain(6), domain(4, seed=1)
    alignment = build('AFNAlignment', step=0.5)
    loss = alignment(source, target)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 0.5**2)
    for batch in (source, target):
        (before,) = _norms(batch)
        moved = batch.features - len(before) / 2 * batch.features.grad
        (after,) = _norms(batch._replace(features=moved))
        np.testing.assert_allclose(after, before + 0.5, rtol=1e-5)


def test_norms_are_logged():
    source, target = domain(6, scale=4.0), domain(4, seed=1)
    alignment = build('AFNAlignment')
    alignment(source, target)
    expected = [norms.mean() for norms in _norms(source, target)]
    found = [alignment.diagnostics[key].item() for key in ('source_norm', 'target_norm')]
    assert found == pytest.approx(expected, rel=1e-5)


def test_weight_of_the_paper_is_the_default():
    assert build('AFNAlignment').loss_weight == 0.05
    assert build('AFNAlignment', loss_weight=1).loss_weight == 1


@pytest.mark.parametrize('wrong', ['step', 'radius'])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match=f'AFNAlignment: {wrong} must be > 0'):
        build('AFNAlignment', **{wrong: 0})
