"""The gap's figures against SciPy, scikit-learn, closed forms and known distances."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from tl_plugin.analysis.domain_gap import _frechet, centre_distance, domain_gap, separability
from tl_plugin.analysis.features import reduce_features
from tl_plugin.evaluation.intervals import bootstrap_estimate, estimate, resample_counts
from tl_plugin.functional import (
    frechet_distance,
    gaussian_kernel,
    maximum_mean_discrepancy,
    weighted_mean_discrepancy,
)


def domains(shift=1.0, counts=(120, 90), width=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(counts[0], width)), rng.normal(size=(counts[1], width)) * 1.3 + shift


def test_frechet_is_that_of_scipy():
    source, target = domains()
    covariances = np.cov(source.T), np.cov(target.T)
    root = sqrtm(covariances[0] @ covariances[1])
    expected = ((source.mean(0) - target.mean(0)) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * np.real(root)
    )
    found = frechet_distance(*map(torch.from_numpy, (source, target)))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_frechet_of_more_features_than_images_is_finite_and_zero_to_itself():
    points = torch.from_numpy(domains(counts=(10, 10), width=40)[0]).float()
    assert frechet_distance(points, points).item() == pytest.approx(0, abs=1e-5)


def test_weights_of_one_are_the_unbiased_estimate():
    source, target = (torch.from_numpy(part) for part in domains(counts=(20, 14)))
    joint = torch.cat([source, target])
    mine = (torch.arange(34) < 20).double()[None]
    found = weighted_mean_discrepancy(gaussian_kernel(joint, (0.5, 2.0)), mine, 1 - mine)
    expected = maximum_mean_discrepancy(source, target, (0.5, 2.0))
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_resample_is_the_mean_over_pairs_of_different_images():
    source, target = domains(counts=(7, 5))
    rng = np.random.default_rng(1)
    joint = np.concatenate([source, target])
    kernel = np.exp(-((joint[:, None] - joint[None]) ** 2).sum(-1) / 8)
    drawn = rng.integers(7, size=7), 7 + rng.integers(5, size=5)

    def mean(first, second):
        return np.mean([kernel[i, j] for i in first for j in second if i != j])

    expected = mean(drawn[0], drawn[0]) + mean(drawn[1], drawn[1]) - 2 * mean(*drawn)
    weights = [torch.from_numpy(np.bincount(part, minlength=12)[None] * 1.0) for part in drawn]
    found = weighted_mean_discrepancy(torch.from_numpy(kernel), *weights)
    assert found.item() == pytest.approx(expected)


def test_separability_is_that_of_scikit_learn():
    source, target = domains(0.6, counts=(150, 150))
    images, labels = np.concatenate([source, target]), np.repeat([0, 1], 150)
    expected = cross_val_score(LogisticRegression(), images, labels, cv=5).mean()
    found = separability(source, target, np.random.default_rng(0))
    assert found.value == pytest.approx(expected, abs=0.03)
    assert found.low < found.value < found.high


def test_unequal_domains_are_not_told_apart_by_their_sizes():
    rng = np.random.default_rng(0)
    found = separability(rng.normal(size=(400, 4)), rng.normal(size=(40, 4)), rng)
    assert found.low < 0.5 < found.high


def test_a_gap_stands_out_from_two_halves_of_the_source():
    near, far = (domain_gap(*domains(shift, (200, 200))) for shift in (0, 2))
    assert near.mmd_p_value == far.mmd_p_value == pytest.approx(1 / 501)  # the spread differs
    assert far.proxy_a_distance.value > 1.8 and far.mmd.value > near.mmd.value
    for name in ('proxy_a_distance', 'mmd', 'frechet'):
        assert far.floor[name] < getattr(far, name).low


def test_few_images_do_not_make_a_frechet_distance():
    """Its value lies in its interval, and nearer the truth than the plain distance."""
    plain, corrected = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        source, target = rng.normal(size=(2, 200, 30))
        target[:, 0] += 1.0
        found = _frechet(source, target, rng)
        assert found.low <= found.value <= found.high
        plain.append(float(frechet_distance(*map(torch.from_numpy, (source, target)))))
        corrected.append(found.value)
    assert abs(np.mean(corrected) - 1) < abs(np.mean(plain) - 1) / 4


def test_equal_distributions_have_no_gap():
    """p-values are uniform and 95% intervals hold 0, up to chance over 20 draws."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found.append(domain_gap(*rng.normal(size=(2, 60, 6))))
    p_values = [gap.mmd_p_value for gap in found]
    assert 0.3 < np.mean(p_values) < 0.7 and np.mean(np.less(p_values, 0.05)) <= 0.2
    assert np.mean([gap.mmd.low < 0 < gap.mmd.high for gap in found]) > 0.7
    assert np.mean([gap.proxy_a_distance.value for gap in found]) < 0.3


@pytest.mark.parametrize('shift', [0.3, 1.0])
def test_intervals_of_centre_distances_hold_the_truth(shift):
    """95% intervals of a known distance; 60 draws, of which 50 or more must hold it."""
    truth = shift * 6**0.5
    hits = []
    for seed in range(60):
        found = centre_distance(*domains(shift, (60, 40), seed=seed), np.random.default_rng(seed))
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) > 50 / 60


def test_centre_distance_is_not_made_of_scatter():
    """Two few images of one distribution: the plain distance would be 1.2."""
    found = [
        centre_distance(
            *(np.random.default_rng(seed).normal(size=(2, 5, 4))), np.random.default_rng(0)
        ).value
        for seed in range(40)
    ]
    assert np.median(found) < 0.5


def test_basic_interval_of_a_mean_is_the_textbook_one():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=400)
    half = 1.96 * sample.std() / 20
    for found in (
        estimate(sample.mean(), resample_counts(400, rng) @ sample / 400),
        bootstrap_estimate(np.mean, sample, rng=rng),
    ):
        assert found.low == pytest.approx(sample.mean() - half, abs=0.015)
        assert found.high == pytest.approx(sample.mean() + half, abs=0.015)


def test_reducing_keeps_most_and_takes_the_unit_away():
    source, target = domains(width=20)
    first, second, explained = reduce_features(source, target, 15)
    other = reduce_features(source * 100, target * 100, 15)[0]
    assert first.shape == (120, 15) and second.shape == (90, 15) and 0.7 < explained < 1
    assert np.abs(first) == pytest.approx(np.abs(other), abs=1e-6)
    joint = np.concatenate([first, second])
    assert (joint**2).sum(1).mean() == pytest.approx(1)


def test_too_few_images_and_broken_features_are_refused():
    with pytest.raises(ValueError, match='got 3 of the source and 9 of the target'):
        reduce_features(np.zeros((3, 4)), np.zeros((9, 4)))
    with pytest.raises(ValueError, match='not finite'):
        reduce_features(np.full((9, 4), np.nan), np.zeros((9, 4)))
