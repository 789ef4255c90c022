from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from tl_plugin.analysis.advice import _label_commands, _wrong_labels
from tl_plugin.analysis.features import reduce_features
from tl_plugin.analysis.label_check import Opinion, check_labels
from tl_plugin.analysis.label_findings import Labelled, label_findings
from tl_plugin.intake.images import ImageItem
from tl_plugin.intake.label_noise import noisy_labels


@pytest.fixture(scope='module')
def domains():
    """Digits, and others that are blurred, as two domains of pixels."""
    images, labels = load_digits(return_X_y=True)
    blurred = images.reshape(-1, 8, 8)
    blurred = (blurred + np.roll(blurred, 2, 2) + np.roll(blurred, 1, 1)).reshape(-1, 64) / 3
    features = images[:400], blurred[400:800]
    reduced = reduce_features(*features)[:2]
    names = [
        [ImageItem(f'{side}/{n}.png', str(y)) for n, y in enumerate(part)]
        for side, part in (('source', labels[:400]), ('target', labels[400:800]))
    ]
    return [
        Labelled(f'data/{side}', *values)
        for side, *values in zip(('source', 'target'), names, features, reduced)
    ]


def noisy(domain, rate=0.2):
    labels = noisy_labels(domain.items, rate)
    items = [ImageItem(item.name, label) for item, label in zip(domain.items, labels)]
    return domain._replace(items=items)


def gap(source, target, doubted=()):
    """By hand: a classifier of the source, images whose label is doubted left out."""
    kept = [
        np.array([item.name not in doubted for item in domain.items]) for domain in (source, target)
    ]
    x, other = source.reduced[kept[0]], target.reduced[kept[1]]
    y, truth = (
        np.array([item.label for item in domain.items])[rows]
        for domain, rows in zip((source, target), kept)
    )
    head = LogisticRegression(C=10, max_iter=2000)
    right = (cross_val_predict(head, x, y, cv=5) == y).mean()
    return right - (head.fit(x, y).predict(other) == truth).mean()


def test_wrong_target_labels_explain_a_part_of_the_gap(domains):
    source, target = domains[0], noisy(domains[1])
    found = label_findings(source, target, (), None)
    assert found.target.rate.value == pytest.approx(0.2, abs=0.05) and found.target.noisy
    assert found.source.rate.value < 0.02 and not found.source.noisy
    doubted = {one.file for one in [*found.source.flagged('wrong'), *found.target.flagged('wrong')]}
    assert sum(found.in_gap.left_out) == len(doubted) > 40
    before, after = gap(source, target), gap(source, target, doubted)
    assert found.in_gap.as_given.value == pytest.approx(before)
    assert found.in_gap.without.value == pytest.approx(after)
    share = found.in_gap.explained
    assert share.value == pytest.approx(1 - after / before)
    assert 0.1 < share.low < share.value < share.high < 1
    # Most of what was added by them, as the labels without noise tell.
    truth = gap(*domains)
    assert abs(after - truth) < 0.4 * (before - truth)


def test_wrong_source_labels_hide_a_part_of_the_gap(domains):
    found = label_findings(noisy(domains[0]), domains[1], (), None)
    assert found.in_gap.explained.value < 0
    assert found.in_gap.without.value > found.in_gap.as_given.value
    clean = label_findings(*domains, (), None).in_gap
    assert abs(clean.explained.value) < 0.1 and sum(clean.left_out) <= 10


def test_few_target_labels_are_judged_by_the_source_and_left_in(domains):
    source, target = domains
    items = [
        item if n < 40 else replace(item, label=None) for n, item in enumerate(noisy(target).items)
    ]
    judge = np.eye(10)[[int(item.label) for item in target.items]]
    opinion = Opinion('the truth', tuple('0123456789'), judge)
    found = label_findings(source, target._replace(items=items), (), opinion)
    wrong = sum(a.label not in (None, b.label) for a, b in zip(items, target.items))
    assert found.target.rate is None and len(found.target.flagged('wrong')) == wrong > 0
    assert found.in_gap.left_out[1] == 0
    said = _wrong_labels(SimpleNamespace(labels=found))
    assert said[-1].startswith(f'{wrong} of the 40 labels of the target look wrong to the truth')


def test_the_advice_is_to_check_noisy_labels_with_the_same_network(domains):
    found = label_findings(noisy(domains[0]), domains[1], (), None)
    network = SimpleNamespace(
        backbone='timm:x', checkpoint='x.pth', image_size=96, own_pipelines=False
    )
    findings = SimpleNamespace(
        labels=found,
        reference=SimpleNamespace(features=network),
        source=SimpleNamespace(origin='data/source'),
        target=SimpleNamespace(origin='data/target'),
    )
    (said,) = _wrong_labels(findings)
    assert 'of the labels of the source look wrong (95% interval' in said
    check, ladder = _label_commands(findings, 'work/config.py')
    arguments = 'data/source --backbone timm:x --checkpoint x.pth --image-size 96'
    assert check.endswith(f'{arguments} --work-dir work/labels_source')
    assert ladder.endswith('work/config.py --labels work/labels_source/labels.csv')


def test_judges_that_contradict_each_other_are_not_trusted(domains):
    """Features that can't tell the classes apart make right labels look wrong."""
    source = domains[0]
    features = source.features @ np.random.default_rng(0).normal(size=(64, 3))
    found = check_labels('a', source.items, features)
    assert found.rate.value > 0.2 and not found.trusted and not found.noisy
    assert 'says more about them than about the labels' in found.notes[-1]
