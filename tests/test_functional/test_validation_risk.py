import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from tl_plugin.functional import control_variate_risk, density_ratio


def test_risk_is_the_authors_formula_in_numpy():
    random = np.random.default_rng(0)
    weights, losses = random.gamma(2, 0.5, 50), random.gamma(1, 1, 50)
    covariance = np.cov(weights * losses, weights, ddof=1)
    eta = -covariance[0, 1] / covariance[1, 1]
    expected = np.mean(weights * losses) + eta * np.mean(weights) - eta
    found = control_variate_risk(torch.tensor(weights), torch.tensor(losses))
    assert found.item() == pytest.approx(expected)


def test_equal_weights_give_the_mean():
    losses = torch.rand(10)
    torch.testing.assert_close(control_variate_risk(torch.ones(10), losses), losses.mean())
    with pytest.raises(ValueError, match='2 source images or more, got 1'):
        control_variate_risk(torch.ones(1), torch.ones(1))


def _gaussians(count=2000):
    random = np.random.default_rng(0)
    source, target = random.normal(0, 1, (count, 1)), random.normal(1, 1, (count, 1))
    return torch.tensor(source), torch.tensor(target)


def test_ratio_is_that_of_known_densities():
    source, target = _gaussians()
    found = density_ratio(source, target).numpy()
    values = source.numpy()[:, 0]
    np.testing.assert_allclose(
        np.log(found), norm.logpdf(values, 1) - norm.logpdf(values, 0), atol=0.25
    )


def test_ratio_is_scikit_learns_regression():
    source, target = (rows[:41] for rows in _gaussians())
    everything = torch.cat([source, target]).numpy()
    scale = lambda rows: (rows.numpy() - everything.mean(0)) / everything.std(0, ddof=1)  # noqa: E731
    held_out, others = scale(source)[0::2], scale(source)[1::2]
    targets = scale(target)[1::2]
    # Its penalty isn't divided by the number of images.
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000)
    model.fit(np.r_[others, targets], np.r_[np.zeros(len(others)), np.ones(len(targets))])
    expected = np.exp(model.decision_function(held_out))
    np.testing.assert_allclose(density_ratio(source, target)[0::2].numpy(), expected, rtol=1e-3)


def test_risk_finds_the_targets_loss_where_the_mean_does_not():
    """A loss that grows with the feature: the target, further up, has more of it."""
    source, target = _gaussians()
    losses = (source[:, 0] - 0.2).square()
    true = (target[:, 0] - 0.2).square().mean()
    found = control_variate_risk(density_ratio(source, target), losses.float())
    assert abs(found - true) < 0.15 < 0.4 < abs(losses.mean() - true)


def test_too_few_images():
    with pytest.raises(ValueError, match='got 1 source and 5 target'):
        density_ratio(torch.zeros(1, 2), torch.zeros(5, 2))
