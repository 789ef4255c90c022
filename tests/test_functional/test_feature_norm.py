import numpy as np
import pytest
import torch

from tl_plugin.functional import feature_norms, hard_feature_norm_loss, stepwise_feature_norm_loss


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
