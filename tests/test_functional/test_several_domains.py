import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss

from tl_plugin.functional import several_domains_accuracy, several_domains_loss


def _case(sizes=(4, 2, 5), seed=0):
    """Logits of images of two sources and the target, and which source each is from."""
    random = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], sizes)
    logits = random.normal(0, 2, (len(labels), 3))
    return logits, labels, sizes[0] + sizes[1]


def _tensors(logits, labels, num_source):
    logits = torch.tensor(logits)
    return logits[:num_source], logits[num_source:], torch.tensor(labels[:num_source])


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_value_is_scikit_learns(smoothing):
    logits, labels, num_source = _case()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = np.where(np.eye(3)[labels] == 1, 1 - smoothing, smoothing / 2)
    terms = -(wanted * np.log(probabilities)).sum(axis=1)
    expected = (2 * terms[:num_source].mean() + terms[num_source:].mean()) / 3
    found = several_domains_loss(*_tensors(logits, labels, num_source), smoothing)
    assert found.item() == pytest.approx(expected)
    if smoothing == 0:
        weights = np.r_[np.full(6, 2 / 6), np.full(5, 1 / 5)] / 3
        again = log_loss(labels, probabilities, sample_weight=weights)
        assert found.item() == pytest.approx(again)


def test_every_domain_weighs_the_same_where_sources_come_equally_often():
    logits, labels, num_source = _case((3, 3, 10))
    source, target, domains = _tensors(logits, labels, num_source)
    cross_entropy = torch.nn.functional.cross_entropy
    means = [cross_entropy(source[domains == k], domains[domains == k]) for k in (0, 1)]
    means.append(cross_entropy(target, torch.full((10,), 2)))
    found = several_domains_loss(source, target, domains)
    torch.testing.assert_close(found, torch.stack(means).mean())


@pytest.mark.parametrize('sizes', [(4, 2, 5), (4, 0, 5)])
def test_accuracy_is_balanced(sizes):
    logits, labels, num_source = _case(sizes)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    found = several_domains_accuracy(*_tensors(logits, labels, num_source))
    assert found.item() == pytest.approx(expected)
