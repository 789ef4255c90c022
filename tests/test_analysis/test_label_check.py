import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

from tl_plugin.analysis import label_inputs
from tl_plugin.analysis.confident_learning import (
    class_thresholds,
    confident_joint,
    noise_estimate,
)
from tl_plugin.analysis.duplicates import DuplicateGroup
from tl_plugin.analysis.label_check import Opinion, check_labels
from tl_plugin.analysis.label_judges import FOLDS, assign_folds
from tl_plugin.intake.images import ImageItem
from tl_plugin.intake.label_noise import noisy_labels
from tl_plugin.launch.console import main


@pytest.fixture(scope='module')
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:800], labels[:800]


def noisy(digits, rate, kind='symmetric'):
    images, labels = digits
    items = [ImageItem(f'{n}.png', str(label)) for n, label in enumerate(labels)]
    given = noisy_labels(items, rate, kind)
    return (
        images,
        [ImageItem(i.name, label) for i, label in zip(items, given)],
        given != (labels.astype(str)),
    )


@pytest.fixture(scope='module')
def report(digits):
    images, items, wrong = noisy(digits, 0.2)
    return check_labels('digits', items, images), items, wrong


def random_judge(size=4, count=300):
    rng = np.random.default_rng(0)
    true = rng.integers(0, size, count)
    labels = np.where(rng.random(count) < 0.2, rng.integers(0, size, count), true)
    probabilities = rng.dirichlet(np.full(size, 0.5), count) + np.eye(size)[true]
    return probabilities / 2, labels


def test_confident_joint_counts_as_its_paper_says():
    probabilities, labels = random_judge()
    thresholds = [probabilities[labels == k, k].mean() for k in range(4)]
    np.testing.assert_allclose(class_thresholds(probabilities, labels), thresholds)
    counts = np.zeros((4, 4))
    for row, given in zip(probabilities, labels):
        reached = [k for k in range(4) if row[k] >= thresholds[k]]
        if reached:
            counts[given, max(reached, key=lambda k: row[k])] += 1
    expected = counts / counts.sum(1, keepdims=True) * np.bincount(labels)[:, None]
    found = confident_joint(probabilities, labels)
    np.testing.assert_allclose(found, expected)
    estimate = noise_estimate(probabilities, labels)
    assert estimate.rate.value == pytest.approx(1 - np.trace(expected) / expected.sum())
    assert estimate.rate.low < estimate.rate.value < estimate.rate.high
    for (given, true), share in estimate.pairs.items():
        assert share.value == pytest.approx(expected[given, true] / len(labels))


def test_confident_joint_is_that_of_cleanlab():
    count = pytest.importorskip('cleanlab.count')
    probabilities, labels = random_judge()
    theirs = count.compute_confident_joint(labels, probabilities, calibrate=True)
    # Theirs is rounded to whole images.
    np.testing.assert_allclose(confident_joint(probabilities, labels), theirs, atol=1)


def test_wrong_digits_are_ranked_first_counted_and_told_apart(report):
    found, items, wrong = report
    by_name = {one.file: one for one in found.findings}
    scores = [by_name[item.name].score for item in items]
    assert average_precision_score(wrong, scores) > 0.95
    assert found.rate.value == pytest.approx(0.2, abs=0.03)
    flagged = {one.file for one in found.flagged('wrong')}
    names = {item.name for item, one in zip(items, wrong) if one}
    assert len(flagged & names) > 0.9 * len(flagged)
    assert sum(pair.share.value for pair in found.pairs) == pytest.approx(found.rate.value)
    assert [one.score for one in found.findings] == sorted(scores, reverse=True)
    assert not any('errors of their own' in note for note in found.notes)
    # Judges that learn from wrong labels too are sure of none, and least of the wrong ones.
    right, wrong = np.array([by_name[item.name].right for item in items]), np.array(wrong)
    assert 3 * right[wrong].mean() < right[~wrong].mean()


def test_judges_that_know_the_images_badly_say_so():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    features = rng.normal(size=(400, 20)) + 6 * np.eye(4, 20)[labels]
    features[::5] = rng.normal(size=(80, 20))  # nothing is seen in these
    items = [ImageItem(f'{n}.png', f'class {label}') for n, label in enumerate(labels)]
    found = check_labels('right labels', items, features)
    assert 'errors of their own, on images that this network knows badly' in found.notes[-1]


def test_many_images_are_judged_in_parts_and_reported_as_one(digits, report, monkeypatch):
    monkeypatch.setattr(label_inputs, 'TOGETHER', 400)
    images, items, wrong = noisy(digits, 0.2)
    found = label_inputs.check_parts('digits', items, images)
    whole, _, _ = report
    assert found.images == whole.images == len({one.file for one in found.findings}) == 800
    assert found.rate.value == pytest.approx(0.2, abs=0.04) and found.noisy
    assert found.rate.low < 0.2 < found.rate.high
    by_name = {one.file: one.score for one in found.findings}
    assert average_precision_score(wrong, [by_name[item.name] for item in items]) > 0.95
    scores = [one.score for one in found.findings]
    assert scores == sorted(scores, reverse=True)
    assert sum(pair.share.value for pair in found.pairs) == pytest.approx(found.rate.value)


def test_clean_digits_raise_no_alarm(digits):
    images, items, _ = noisy(digits, 0.0)
    found = check_labels('digits', items, images)
    assert len(found.flagged('wrong')) <= 0.005 * len(items) and found.rate.value < 0.01


def test_what_shows_no_class_stands_apart(digits):
    images, items, _ = noisy(digits, 0.0)
    odd = np.random.default_rng(0).integers(0, 17, (5, images.shape[1]))
    items = [*items, *(ImageItem(f'odd{n}.png', '3') for n in range(5))]
    found = check_labels('digits', items, np.concatenate([images, odd]))
    assert {f'odd{n}.png' for n in range(5)} <= {one.file for one in found.flagged('outlier')}


def test_copies_with_other_labels_are_named_and_share_a_fold(digits):
    images, items, _ = noisy(digits, 0.0)
    names, labels = (items[0].name, 'else/a.png'), (items[0].label, 'another')
    group = DuplicateGroup(names, ('', 'the other domain'), ('train', 'test'), labels, True)
    (one,) = check_labels('digits', items, images, [group]).flagged('copies')
    assert one.file == items[0].name
    assert 'else/a.png (the other domain test) is labelled another' in one.reason
    groups = np.repeat(np.arange(50), 4)
    folds = assign_folds(np.repeat([0, 1], 100), groups, np.random.default_rng(0))
    assert all(len(set(folds[groups == number])) == 1 for number in range(50))
    assert sorted(np.bincount(folds)) == [40] * FOLDS


def test_a_handful_is_judged_by_the_source_model_and_says_how_little_that_is():
    items = [ImageItem(f'{n}.png', 'ab'[n % 2]) for n in range(10)]
    rows = np.array([[0.97, 0.03], [0.1, 0.9]] * 5)
    rows[3] = [0.95, 0.05]
    rows[4] = [0.4, 0.6]
    features = np.random.default_rng(0).normal(size=(10, 4))
    model = Opinion('the source model', ('a', 'b'), rows)
    found = check_labels('few', items, features, source_model=model)
    assert found.rate is None and 'too few to say how many labels are wrong' in found.notes[0]
    assert [(one.file, one.kind, one.likely) for one in found.flagged()] == [
        ('3.png', 'wrong', 'a'),
        ('4.png', 'ambiguous', 'b'),
    ]
    alone = check_labels('few', items, features)
    assert alone.rate is None and 'give a source model' in alone.notes[0]
    with pytest.raises(ValueError, match='labels of 1 classes'):
        check_labels('one', items[::2], features[::2])


def test_the_tool_writes_table_json_and_page(digits, tmp_path, monkeypatch, capsys):
    images, items, wrong = noisy((digits[0][:300], digits[1][:300]), 0.1)
    for image, item in zip(images, items):
        folder = tmp_path / 'data' / item.label
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (image.reshape(8, 8) * 15.9).astype(np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(folder / item.name)
    monkeypatch.setattr(sys, 'argv', [])
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setattr(sys.stdout, 'reconfigure', lambda **_: None, raising=False)
    arguments = [str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'out'), '--processes', '1']
    with pytest.raises(SystemExit) as end:
        main(['check-labels', *arguments])
    assert end.value.code == 0
    with (tmp_path / 'out' / 'labels.csv').open(encoding='utf-8-sig') as file:
        rows = list(csv.DictReader(file))
    names = {item.name for item, one in zip(items, wrong) if one}
    first = [Path(row['file']).name for row in rows[: len(names)]]
    assert len(rows) == 300 and len(names & set(first)) >= 0.8 * len(names)
    assert all(row['label'] == row['given'] for row in rows)
    written = json.loads((tmp_path / 'out' / 'labels.json').read_text())
    assert written['rate']['value'] == pytest.approx(0.1, abs=0.05)
    page = (tmp_path / 'out' / 'labels.html').read_text()
    assert page.count('<img') >= 20 and 'Give a --backbone' in page
    assert 'Wrong labels: about' in capsys.readouterr().out
