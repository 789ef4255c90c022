"""The diagnosis' classifier expects an accuracy of a target without labels."""

import numpy as np
import pytest

from tl_plugin.analysis.advice import _expected_accuracy
from tl_plugin.analysis.class_gap import DegradedSource, classifier_findings


def clusters(count, spread, seed):
    rng = np.random.default_rng(seed)
    names = np.array(list('abc'))[np.arange(count) % 3]
    centres = dict(a=[4, 0, 0], b=[0, 4, 0], c=[0, 0, 4])
    points = np.array([centres[name] for name in names])
    # A degraded image says less: it moves towards the middle of all.
    points = points / spread + rng.normal(size=(count, 3)) + (1 - 1 / spread) * 4 / 3
    return points, list(names)


@pytest.fixture(scope='module')
def degraded():
    levels = {f'level {level}': 1 + level / 3 for level in range(1, 9)}
    rows = np.arange(60)
    return DegradedSource(rows, {k: clusters(60, s, 5)[0] for k, s in levels.items()})


@pytest.mark.parametrize('spread', [1.0, 2.0])
def test_it_is_near_the_true_accuracy_and_needs_no_target_label(degraded, spread):
    source, labels = clusters(300, 1.0, 0)
    # One class is too rare to be learned, so that the copies are numbered again.
    labels[:2] = ['rare', 'rare']
    target, truth = clusters(600, spread, 1)
    known = classifier_findings(source, labels, target, truth)
    found = classifier_findings(source, labels, target, [None] * 600, 0, degraded)
    expected = found.expected_target_accuracy
    assert found.target_accuracy is None and found.left_out == {'rare': 2}
    assert expected.value == pytest.approx(known.target_accuracy.value, abs=0.08)
    assert expected.low <= known.target_accuracy.value <= expected.high
    (reason,) = _expected_accuracy(found)
    assert f'{100 * expected.value:.0f}% (90% interval' in reason
    assert known.expected_target_accuracy is None and not _expected_accuracy(known)


def test_too_few_target_images_have_a_reason(degraded):
    source, labels = clusters(300, 1.0, 0)
    found = classifier_findings(source, labels, clusters(12, 1.0, 1)[0], [None] * 12, 0, degraded)
    assert found.expected_target_accuracy.value is None
    assert '12 target images are too few' in _expected_accuracy(found)[0]
