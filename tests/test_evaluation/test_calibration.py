"""What a calibration keeps: thresholds that hold on other images, a metric, a reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import METRICS
from mmpretrain.structures import DataSample
from scipy.spatial.distance import mahalanobis

from tests.test_functional.test_calibration import naive, overconfident
from tl_plugin.evaluation.calibration import Calibration, fit_calibration
from tl_plugin.evaluation.feature_reference import FeatureReference, fit_reference

ABOUT = dict(fitted_on='here', classes=list('abcde'), checkpoint='x', strategy=[])


def features_of(labels, width=20, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(5, width)) * 3
    spread = np.linspace(0.5, 2, width)
    return centres[labels] + rng.normal(size=(len(labels), width)) * spread


@pytest.fixture(scope='module')
def fitted():
    logits, labels = overconfident(2000)
    features = torch.from_numpy(features_of(labels.numpy())).float()
    return fit_calibration(logits, labels, features, **ABOUT)


def test_the_error_falls_and_json_keeps_all(fitted):
    assert fitted.error_after < fitted.error_before / 2
    again = Calibration.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again.temperature == fitted.temperature
    assert again.set_threshold(0.9) == fitted.set_threshold(0.9)
    points = features_of(np.arange(50) % 5, seed=1)
    assert again.reference.distances(points) == pytest.approx(
        fitted.reference.distances(points), rel=1e-3
    )


def test_sure_predictions_of_new_images_are_as_right_as_asked_for(fitted):
    logits, labels = overconfident(4000, seed=5)
    confidences, predicted = (logits / fitted.temperature).softmax(1).max(1)
    sure = confidences >= fitted.sure_threshold(0.9)
    right = (predicted == labels)[sure].float().mean()
    assert 0.88 < right < 0.97 and sure.float().mean() > 0.1


def test_a_precision_that_cannot_be_shown_is_none():
    logits, labels = overconfident(40)
    assert fit_calibration(logits, labels, None, **ABOUT).sure_threshold(0.999) is None


def test_too_few_images_are_refused():
    logits, labels = overconfident(29)
    with pytest.raises(ValueError, match='30 labelled'):
        fit_calibration(logits, labels, None, **ABOUT)


def confusion_of(logits, labels, temperature):
    rows = (logits / temperature).softmax(1)
    number = rows.shape[1]
    return torch.stack([rows[labels == k].mean(0) for k in range(number)])


def test_what_is_confused_is_whole_for_few_classes_and_bounded_for_many(fitted):
    logits, labels = overconfident(2000)
    whole = confusion_of(logits, labels, fitted.temperature)
    assert torch.allclose(fitted.confusion_matrix(), whole, atol=1e-5)
    old = {**fitted.to_json(), 'confusion': whole.tolist()}
    del old['confused_with'], old['error_by_chance']  # as an earlier version wrote it
    again = Calibration.from_json(old)
    assert torch.allclose(again.confusion_matrix(), whole, atol=1e-5)
    assert 'chance' in fitted.errors_in_words() and 'chance' not in again.errors_in_words()

    sizes = []
    for number in (100, 200):
        logits, labels = overconfident(1000, classes=number)
        about = {**ABOUT, 'classes': list(map(str, range(number)))}
        found = fit_calibration(logits, labels, None, **about)
        sizes.append(len(json.dumps(found.to_json())))
    assert sizes[1] < 2 * sizes[0]
    matrix, rows = found.confusion_matrix(), (logits / found.temperature).softmax(1)
    for label in labels[:5].tolist():
        mean = rows[labels == label].mean(0)
        kept = mean.topk(20).indices
        assert torch.allclose(matrix[label, kept], mean[kept], atol=1e-5)
        assert matrix[label].sum().item() == pytest.approx(1, abs=1e-4)
    few = fit_calibration(logits[:150], labels[:150], None, **about)
    assert few.confusion is None and few.confusion_matrix() is None


def test_distance_is_mahalanobis_from_the_nearest_class():
    labels = np.arange(4000) % 5
    features = features_of(labels, width=6)
    reference = fit_reference(features, labels, components=6)
    means = np.stack([features[labels == k].mean(0) for k in range(5)])
    within = features - means[labels]
    inverse = np.linalg.inv(np.cov(within.T))
    expected = [min(mahalanobis(row, mean, inverse) for mean in means) for row in features[:20]]
    found = reference.distances(features[:20]) * np.sqrt(6)
    assert found == pytest.approx(np.array(expected), rel=0.02)


def test_strange_images_lie_beyond_the_usual_distance():
    labels = np.arange(600) % 5
    reference = fit_reference(features_of(labels), labels)
    known = reference.distances(features_of(labels, seed=3))
    strange = reference.distances(features_of(labels, seed=4) + 15)
    assert (known > reference.usual).mean() < 0.05
    assert (strange > reference.usual).all()
    assert fit_reference(features_of(labels[:10]), labels[:10]) is None
    assert isinstance(reference, FeatureReference)


def test_metric_is_the_error_of_the_labelled_images():
    logits, labels = overconfident(50)
    samples = [
        DataSample().set_pred_score(row.softmax(0)).set_gt_label(label)
        for row, label in zip(logits, labels)
    ]
    samples.append(DataSample().set_pred_score(logits[0].softmax(0)))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        metric = METRICS.build(dict(type='CalibrationError', bins=10))
    metric.process(None, [sample.to_dict() for sample in samples])
    found = metric.evaluate(len(samples))
    expected = naive(logits.double().softmax(1).numpy(), labels.numpy(), 10)
    names = ('calibration/expected_error', 'calibration/classwise_error')
    assert [found[name] for name in names] == pytest.approx([100 * e for e in expected], abs=1e-4)
