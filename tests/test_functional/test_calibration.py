"""Temperature, calibration errors and conformal thresholds against references of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from tl_plugin.functional import calibration_errors, conformal_threshold, fit_temperature


def overconfident(count, classes=5, factor=3.0, seed=0):
    """Logits whose true temperature is ``factor``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return factor * logits, labels


def test_temperature_is_that_of_a_general_optimizer():
    logits, labels = overconfident(400)

    def loss(temperature):
        probabilities = (logits.double() / temperature).softmax(1)
        return log_loss(labels, probabilities.numpy(), labels=range(5))

    expected = minimize_scalar(loss, bounds=(0.1, 20), method='bounded').x
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(3, rel=0.2)


def test_a_weight_of_two_is_an_image_twice():
    logits, labels = overconfident(60)
    weights = torch.ones(60)
    weights[:20] = 2
    twice = torch.cat([logits, logits[:20]]), torch.cat([labels, labels[:20]])
    assert fit_temperature(logits, labels, weights) == pytest.approx(fit_temperature(*twice))


def test_where_all_are_right_the_temperature_stays_finite():
    assert 0 < fit_temperature(torch.eye(4) * 5, torch.arange(4)) < 1


def naive(probabilities, labels, bins):
    """Both errors, image by image and bin by bin."""
    edges = np.linspace(0, 1, bins + 1)

    def error(confidence, right):
        total = 0.0
        for low, high in zip(edges[:-1], edges[1:]):
            inside = [i for i, c in enumerate(confidence) if low < c <= high]
            if inside:
                gap = np.mean(confidence[inside]) - np.mean(right[inside])
                total += len(inside) / len(confidence) * abs(gap)
        return total

    classes = [
        error(probabilities[:, k], (labels == k).astype(float))
        for k in range(probabilities.shape[1])
    ]
    best = error(probabilities.max(1), (probabilities.argmax(1) == labels).astype(float))
    return best, float(np.mean(classes))


@pytest.mark.parametrize('bins', [1, 10, 15])
def test_errors_are_those_of_a_naive_count(bins):
    logits, labels = overconfident(200)
    found = calibration_errors(logits.softmax(1), labels, bins)
    expected = naive(logits.double().softmax(1).numpy(), labels.numpy(), bins)
    assert tuple(found) == pytest.approx(expected, abs=1e-6)


def test_sets_cover_new_images():
    logits, labels = overconfident(4000)
    probabilities = logits.softmax(1)
    true = probabilities.gather(1, labels[:, None])[:, 0]
    threshold = conformal_threshold(true[:2000], 0.9)
    assert (true[2000:] >= threshold).float().mean() == pytest.approx(0.9, abs=0.02)
    assert conformal_threshold(true[:5], 0.9) == 0  # too few


def test_weighted_sets_cover_images_of_another_mixture():
    """The hard half is three times as frequent in the target."""
    logits, labels = overconfident(20000)
    hard = torch.arange(20000) % 2 == 0
    logits[hard] *= 0.2
    true = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    known, new = torch.arange(20000) < 10000, torch.arange(20000) >= 10000
    weights = torch.where(hard, 1.5, 0.5)
    share = weights[new] / weights[new].sum()

    def coverage(threshold):
        return float(((true[new] >= threshold) * share).sum())

    assert coverage(conformal_threshold(true[known], 0.9, weights[known])) == pytest.approx(
        0.9, abs=0.015
    )
    assert abs(coverage(conformal_threshold(true[known], 0.9)) - 0.9) > 0.02


@pytest.mark.parametrize('call', [fit_temperature, calibration_errors])
def test_no_image_is_an_error(call):
    with pytest.raises(ValueError, match='labelled images'):
        call(torch.empty(0, 3), torch.empty(0, dtype=torch.long))
