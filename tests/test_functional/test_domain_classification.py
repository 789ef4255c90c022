import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss

from tl_plugin.functional import domain_accuracy, domain_classification_loss


def _domains(num_source=7, num_target=3):
    random = np.random.default_rng(0)
    logits = random.normal(size=num_source + num_target) * 2
    labels = np.repeat([0, 1], [num_source, num_target])
    source, target = torch.tensor(logits).split([num_source, num_target])
    return logits, labels, source, target


def test_loss_is_log_loss_with_equal_domain_weights():
    logits, labels, source, target = _domains()
    weights = np.where(labels == 0, 1 / (labels == 0).sum(), 1 / (labels == 1).sum())
    expected = log_loss(labels, 1 / (1 + np.exp(-logits)), sample_weight=weights)

    assert domain_classification_loss(source, target).item() == pytest.approx(expected, abs=1e-12)
    # (N, 1), as a linear layer gives them, is the same.
    assert domain_classification_loss(source[:, None], target[:, None]).item() == pytest.approx(
        expected, abs=1e-12
    )


def test_smoothed_loss_is_a_mixture_of_both_labels():
    _, _, source, target = _domains()
    straight = domain_classification_loss(source, target)
    swapped = domain_classification_loss(-source, -target)
    found = domain_classification_loss(source, target, label_smoothing=0.1)
    torch.testing.assert_close(found, 0.9 * straight + 0.1 * swapped)


def test_accuracy_is_balanced_accuracy():
    logits, labels, source, target = _domains()
    expected = balanced_accuracy_score(labels, logits > 0)
    assert domain_accuracy(source, target).item() == pytest.approx(expected)


@pytest.mark.parametrize(('num_source', 'num_target'), [(0, 2), (2, 0)])
def test_empty_domain_is_refused(num_source, num_target):
    with pytest.raises(ValueError, match=f'{num_source} source and {num_target} target'):
        domain_classification_loss(torch.zeros(num_source), torch.zeros(num_target))


def test_weights_are_sample_weights():
    logits, labels, source, target = _domains()
    weights = np.random.default_rng(1).uniform(0.5, 1.5, size=len(labels))
    terms = weights * np.logaddexp(0, np.where(labels == 0, logits, -logits))
    expected = 0.5 * (terms[labels == 0].mean() + terms[labels == 1].mean())
    parts = torch.tensor(weights).split([7, 3])
    for shape in ((-1,), (-1, 1)):  # with and without the channel that a linear layer leaves
        found = domain_classification_loss(source.view(shape), target.view(shape), 0.0, *parts)
        assert found.item() == pytest.approx(expected, abs=1e-12)
