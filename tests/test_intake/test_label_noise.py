import numpy as np
import pytest

from tl_plugin.intake.images import ImageItem
from tl_plugin.intake.label_noise import noisy_labels


def items_of(count, classes='abcd'):
    return [ImageItem(f'{n}.png', classes[n % len(classes)]) for n in range(count)]


def transitions(items, labels, classes='abcd'):
    counts = np.zeros((len(classes), len(classes)))
    for item, label in zip(items, labels):
        counts[classes.index(item.label), classes.index(label)] += 1
    return counts / counts.sum(1, keepdims=True)


def test_each_kind_has_its_rate_and_its_classes():
    items = items_of(4000)
    features = np.random.default_rng(1).normal(size=(4000, 12))
    symmetric = transitions(items, noisy_labels(items, 0.3))
    np.testing.assert_allclose(symmetric.diagonal(), 0.7)
    np.testing.assert_allclose(symmetric[~np.eye(4, dtype=bool)], 0.1, atol=0.03)
    expected = 0.7 * np.eye(4) + 0.3 * np.eye(4)[[1, 2, 3, 0]]
    np.testing.assert_allclose(transitions(items, noisy_labels(items, 0.3, 'pairs')), expected)
    by_instance = noisy_labels(items, 0.3, 'instance', features)
    assert 0.67 < np.mean([i.label == one for i, one in zip(items, by_instance)]) < 0.73


def test_instance_noise_follows_from_the_features():
    """Images that look the same and are wrong are mostly taken for the same class."""
    items = items_of(2000, 'abcdef')
    kinds = np.random.default_rng(2).normal(size=(3, 64))
    shown = np.arange(2000) // 6 % 3
    labels = noisy_labels(items, 0.4, 'instance', kinds[shown])
    for look in range(3):
        wrong = [
            label
            for item, label, own in zip(items, labels, shown)
            if own == look and item.label == 'a' != label
        ]
        assert max(map(wrong.count, set(wrong))) > 0.9 * len(wrong)


def test_seeded_unlabelled_stay_and_what_cannot_be_is_refused():
    items = [*items_of(40), ImageItem('bare.png')]
    assert noisy_labels(items, 0.2) == noisy_labels(items, 0.2) != noisy_labels(items, 0.2, seed=1)
    assert noisy_labels(items, 0.2)[-1] is None
    assert noisy_labels(items, 0.0) == [item.label for item in items]
    for arguments, message in (
        ((items, 1.2), r'in \[0, 1\), got 1.2'),
        ((items_of(9, 'a'), 0.2), 'wrong labels need two classes'),
        ((items, 0.2, 'some'), 'expected one of symmetric, pairs, instance'),
        ((items, 0.2, 'instance'), 'needs features of all 41 images'),
    ):
        with pytest.raises(ValueError, match=message):
            noisy_labels(*arguments)
