"""Temperature, calibration errors and conformal thresholds against references of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import log_loss

from tl_plugin.functional import (
    calibration_errors,
    conformal_threshold,
    error_by_chance,
    fit_temperature,
    shrunk_temperature,
)


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


def test_a_temperature_is_shrunk_by_how_far_it_varies_between_resamples():
    logits, labels = overconfident(60, factor=2.0)

    def logarithm(chosen):
        rows, known = logits[chosen].double().numpy(), labels[chosen].numpy()

        def loss(theta):
            scaled = rows * np.exp(-theta)
            return np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(known)), known])

        return minimize_scalar(loss, bounds=(-3, 3), method='bounded').x

    rng = np.random.default_rng(0)
    drawn = [logarithm(rng.integers(60, size=60)) for _ in range(300)]
    found = shrunk_temperature(logits, labels)
    assert found.deviation == pytest.approx(np.std(drawn), rel=0.2)
    theta = logarithm(np.arange(60))
    assert found.fitted == pytest.approx(np.exp(theta), rel=1e-3)
    kept = max(0, 1 - (found.deviation / theta) ** 2)
    assert found.value == pytest.approx(np.exp(kept * theta), rel=1e-3) and 0 < kept < 1


def test_copies_of_an_image_say_no_more_than_the_image():
    logits, labels = overconfident(42, factor=1.2)
    once = shrunk_temperature(logits, labels)
    images = torch.arange(42).repeat(5)
    copies = shrunk_temperature(logits.repeat(5, 1), labels.repeat(5), images=images)
    assert copies == pytest.approx(once)
    assert shrunk_temperature(logits.repeat(5, 1), labels.repeat(5)).deviation == pytest.approx(
        once.deviation / 5**0.5
    )


def test_few_images_harm_a_calibrated_model_less_and_many_still_cool_an_overconfident_one():
    logits, labels = overconfident(20_000, factor=1.0)

    def loss(temperature):
        return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

    plain, shrunk = [], []
    for seed in range(1, 61):
        few = overconfident(42, factor=1.0, seed=seed)
        plain.append(loss(fit_temperature(*few)) - loss(1.0))
        shrunk.append(loss(shrunk_temperature(*few).value) - loss(1.0))
    assert np.mean(shrunk) < 0.6 * np.mean(plain)
    assert shrunk_temperature(*overconfident(500)).value == pytest.approx(3, rel=0.2)
    # All right: nothing says how sure is too sure.
    assert shrunk_temperature(torch.eye(4) * 5, torch.arange(4)).value == 1


def test_a_calibrated_model_shows_an_error_by_chance():
    logits, labels = overconfident(20_000, factor=1.0)
    confidences = logits[:42].softmax(1).amax(1)
    rng = np.random.default_rng(0)
    others = (1 - confidences[:, None]).expand(-1, 4) / 4
    rows = torch.cat([confidences[:, None], others], dim=1).numpy()
    drawn = [naive(rows, (rng.random(42) >= rows[:, 0]) * 1, 15)[0] for _ in range(100)]
    assert error_by_chance(confidences) == pytest.approx(np.mean(drawn), rel=0.1)
    assert (
        calibration_errors(logits.softmax(1), labels).expected < 0.02 < error_by_chance(confidences)
    )


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
