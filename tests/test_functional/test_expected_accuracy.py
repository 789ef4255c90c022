"""Estimators of accuracy without labels, against other ways to compute them."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from tl_plugin.functional import (
    confidence_accuracy,
    matrix_norm,
    threshold_accuracy,
    transport_accuracy,
)


def log_probabilities(count, classes=4, sharpness=2.0, seed=0):
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)) * sharpness
    return logits.log_softmax(1)


def test_as_many_source_images_lie_below_the_threshold_as_are_wrong():
    source = log_probabilities(200)
    right = torch.rand(200, generator=torch.Generator().manual_seed(1)) < 0.7
    assert threshold_accuracy(source, right, source).item() == pytest.approx(right.float().mean())
    surer = log_probabilities(300, sharpness=9.0, seed=3)
    assert threshold_accuracy(source, right, surer) > threshold_accuracy(source, right, source)


@pytest.mark.parametrize(('right', 'expected'), [(True, 1.0), (False, 0.0)])
def test_thresholds_where_all_or_none_of_the_source_are_right(right, expected):
    source = log_probabilities(50)
    assert threshold_accuracy(source, torch.full((50,), right), source) == expected


def test_confidence_lost_is_accuracy_lost():
    source, target = log_probabilities(100), log_probabilities(80, sharpness=1.0, seed=1)
    right = torch.arange(100) < 90
    lost = source.exp().numpy().max(1).mean() - target.exp().numpy().max(1).mean()
    assert confidence_accuracy(source, right, target).item() == pytest.approx(0.9 - lost, abs=1e-5)


def test_transport_is_the_linear_program_s():
    target = log_probabilities(30, classes=3)
    prior = torch.tensor([0.5, 0.3, 0.2])
    cost = 1 - target.exp().double().numpy()
    rows = np.kron(np.eye(30), np.ones(3))
    columns = np.kron(np.ones(30), np.eye(3))
    exact = linprog(
        cost.ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([np.full(30, 1 / 30), prior.numpy()]),
    )
    assert transport_accuracy(prior, target).item() == pytest.approx(1 - exact.fun, abs=0.01)


def test_transport_sees_that_all_images_get_one_class():
    sure = torch.tensor([[0.98, 0.01, 0.01]]).log().expand(60, 3)
    right = torch.ones(60, dtype=torch.bool)
    assert confidence_accuracy(sure, right, sure) == 1
    assert transport_accuracy(torch.full((3,), 1 / 3), sure) < 0.4


def test_matrix_norm_rises_with_sureness_and_is_the_probabilities_norm_far_from_uniform():
    norms = [matrix_norm(log_probabilities(100, sharpness=s)).item() for s in (0.1, 1.0, 3.0)]
    assert norms == sorted(norms)
    sure = log_probabilities(100, classes=10, sharpness=30.0)
    expected = (sure.exp().double().numpy() ** 4).mean() ** 0.25
    assert matrix_norm(sure).item() == pytest.approx(expected, rel=1e-4)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match='target'):
        transport_accuracy(torch.full((3,), 1 / 3), torch.empty(0, 3))
