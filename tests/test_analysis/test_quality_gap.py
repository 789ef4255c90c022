"""Effects against SciPy and scikit-learn; the added corruption is the one that is found."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_ind

from tests.test_analysis.hostile_files import photo
from tl_plugin.analysis.class_gap import classifier_findings, estimate_shares
from tl_plugin.analysis.quality_gap import explained_by_quality, hedges_g, quality_gap
from tl_plugin.datasets.image_quality import measure_quality


def test_hedges_g_is_the_t_statistic_in_another_unit():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=40), rng.normal(0.7, 2, size=25)
    t = ttest_ind(target, source).statistic
    expected = t * np.sqrt(1 / 40 + 1 / 25) * (1 - 3 / (4 * 63 - 1))
    assert hedges_g(source, target) == pytest.approx(expected)


def noisy(image, rng):
    noise = rng.normal(0, 12, image.shape)
    return np.clip(image.astype(float) + noise, 0, 255).astype(np.uint8)


def test_the_added_corruption_is_found_first_with_an_interval():
    rng = np.random.default_rng(0)
    source = [measure_quality(photo(seed) // 2 + 60) for seed in range(40)]
    target = [measure_quality(noisy(photo(seed) // 2 + 60, rng)) for seed in range(40, 80)]
    gap = quality_gap(source, target)
    first = gap.statistics[0]
    assert first.name in ('noise', 'sharpness')
    noise = next(item for item in gap.statistics if item.name == 'noise')
    assert noise.worse and noise.target - noise.source == pytest.approx(12, abs=1.5)
    assert noise.effect.low > 2 and noise.auc == 1 and gap.domain_accuracy.value > 0.95
    values = [[quality['contrast'] for quality in part] for part in (source, target)]
    contrast = next(item for item in gap.statistics if item.name == 'contrast')
    expected = mannwhitneyu(values[1], values[0]).statistic / 1600
    assert contrast.auc == pytest.approx(expected)
    same = next(item for item in gap.statistics if item.name == 'aspect_ratio')
    assert same.effect == (0, 0, 0) and same.auc == 0.5


def test_equal_quality_differs_in_nothing():
    """Over random divisions of the same photos: chance on average."""
    qualities = np.array([measure_quality(photo(seed)) for seed in range(100)])
    gaps = []
    for seed in range(8):
        order = np.random.default_rng(seed).permutation(100)
        gaps.append(quality_gap(qualities[order[:50]], qualities[order[50:]]))
    assert np.mean([gap.domain_accuracy.value for gap in gaps]) == pytest.approx(0.5, abs=0.06)
    effects = [item.effect for gap in gaps for item in gap.statistics]
    assert np.mean([effect.low <= 0 <= effect.high for effect in effects]) > 0.85


def test_quality_explains_what_follows_from_it_and_nothing_else():
    rng = np.random.default_rng(0)
    quality = np.concatenate([rng.normal(2, 1, (100, 3)), rng.normal(4, 1, (100, 3))])
    features = quality @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(200, 8))
    assert explained_by_quality(quality, features[:100], features[100:]) > 0.6
    other = rng.normal(size=(200, 8)) + np.repeat([[0], [1]], 100, axis=0)
    assert explained_by_quality(rng.normal(size=(200, 3)), other[:100], other[100:]) < 0.1
    assert quality_gap([{}] * 3, [{}] * 9) is None


def clusters(counts, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat(['a', 'b', 'c'], counts)
    centres = dict(a=[4, 0, 0], b=[0, 4, 0], c=[0, 0, 4])
    points = np.array([centres[name] for name in names]) + rng.normal(size=(len(names), 3))
    points[names == 'c'] += shift
    return points, list(names)


def test_the_class_that_moved_is_found_and_frequencies_are_estimated():
    source, source_labels = clusters([60, 60, 60])
    target, target_labels = clusters([20, 40, 100], 1.2, seed=1)
    for labels, origin in ((target_labels, 'labels'), ([None] * 160, 'confident predictions')):
        found = classifier_findings(source, source_labels, target, labels)
        assert found.labels_from == origin and found.class_gaps[0].name == 'c'
        gap = found.class_gaps[0].distance
        spread = np.linalg.norm(source[120:] - source[120:].mean(0), axis=1).mean()
        assert gap.low < 1.2 * 3**0.5 / spread < gap.high
        assert found.estimated_shares['c'] == pytest.approx(100 / 160, abs=0.05)
        assert found.label_shift == pytest.approx(100 / 160 - 1 / 3, abs=0.05)
    assert found.target_accuracy is None and found.source_accuracy.value > 0.95


def test_shares_are_those_of_the_target_where_appearance_is_equal():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=4000)
    seen = rng.normal(labels * 1.5)
    probability = 1 / (1 + np.exp(-1.5 * (seen - 0.75)))  # Bayes' rule with equal priors
    both = np.stack([1 - probability, probability], 1)
    target = rng.random(3000) < 0.8
    seen = rng.normal(target * 1.5)
    probability = 1 / (1 + np.exp(-1.5 * (seen - 0.75)))
    found = estimate_shares(both, labels, np.stack([1 - probability, probability], 1))
    assert found[1] == pytest.approx(target.mean(), abs=0.03)
    assert abs((probability > 0.5).mean() - target.mean()) > 0.05  # counting predictions is worse


def test_classes_with_too_few_source_images_are_named():
    source, source_labels = clusters([40, 4, 20])
    target, target_labels = clusters([10, 10, 10], seed=1)
    found = classifier_findings(source, source_labels, target, target_labels)
    assert found.left_out == {'b': 4}
    assert set(found.source_shares) == {'a', 'c'} == {gap.name for gap in found.class_gaps}


def test_one_class_alone_has_no_classifier():
    points = np.zeros((10, 3))
    assert classifier_findings(points, ['a'] * 10, points, [None] * 10) is None
