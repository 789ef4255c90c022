import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import softmax

from tl_plugin.functional import (
    centroid_pseudo_labels,
    class_confusion,
    entropy_loss,
    marginal_entropy,
    prediction_entropy,
)


def _logits_entropy(scale=2.0):
    return np.random.default_rng(0).normal(size=(7, 4)) * scale


def test_entropies_are_scipys():
    logits = _logits_entropy()
    probabilities = softmax(logits, axis=1)
    expected = scipy.stats.entropy(probabilities, axis=1)
    found = torch.tensor(logits)
    np.testing.assert_allclose(prediction_entropy(found), expected, atol=1e-12)
    assert entropy_loss(found).item() == pytest.approx(expected.mean(), abs=1e-12)
    assert marginal_entropy(found).item() == pytest.approx(
        scipy.stats.entropy(probabilities.mean(axis=0)), abs=1e-12
    )


def test_their_difference_is_the_mutual_information():
    """Of images, each drawn equally often, and classes."""
    logits = _logits_entropy()
    joint = softmax(logits, axis=1) / len(logits)
    independent = joint.sum(axis=0, keepdims=True) * joint.sum(axis=1, keepdims=True)
    expected = (joint * np.log(joint / independent)).sum()
    found = marginal_entropy(torch.tensor(logits)) - entropy_loss(torch.tensor(logits))
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_certain_predictions_have_finite_gradients(function):
    logits = torch.tensor([[1e5, 0.0, -1e5], [0.0, 1e5, 0.0]], requires_grad=True)
    function(logits).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_gradients(function):
    logits = torch.tensor(_logits_entropy()[:3], requires_grad=True)
    assert torch.autograd.gradcheck(function, logits)


@pytest.mark.parametrize('function', [entropy_loss, marginal_entropy])
def test_no_image_is_refused(function):
    with pytest.raises(ValueError, match='at least 1 image of the target, got 0 target'):
        function(torch.zeros(0, 3))


def _logits_class_confusion(size=7, classes=4, scale=3.0):
    return np.random.default_rng(0).normal(size=(size, classes)) * scale


def _paper(logits, temperature):
    """Section 3 of the paper, element by element."""
    size, classes = logits.shape
    y = np.zeros((size, classes))
    for i in range(size):
        for j in range(classes):
            y[i, j] = np.exp(logits[i, j] / temperature) / np.exp(logits[i] / temperature).sum()
    entropy = [-sum(p * np.log(p) for p in y[i]) for i in range(size)]
    total = sum(1 + np.exp(-h) for h in entropy)
    weights = [size * (1 + np.exp(-h)) / total for h in entropy]
    confusion = np.zeros((classes, classes))
    for j in range(classes):
        for k in range(classes):
            confusion[j, k] = sum(weights[i] * y[i, j] * y[i, k] for i in range(size))
    loss = 0.0
    for j in range(classes):
        for k in range(classes):
            if j != k:
                loss += abs(confusion[j, k] / confusion[j].sum())
    return loss / classes


@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('size', [1, 7])
def test_value_is_the_papers(size, temperature):
    logits = _logits_class_confusion(size)
    found = class_confusion(torch.tensor(logits), temperature)
    assert found.item() == pytest.approx(_paper(logits, temperature), abs=1e-12)


def test_gradient_is_that_of_the_plain_formula():
    """Written with matrices and a division; the weights are constants, as in the paper."""
    logits, plain = (torch.tensor(_logits_class_confusion(), requires_grad=True) for _ in range(2))
    class_confusion(logits).backward()

    y = (plain / 2.5).softmax(dim=1)
    with torch.no_grad():
        weights = 1 + torch.exp((y * y.log()).sum(dim=1))
        weights = len(y) * weights / weights.sum()
    confusion = y.T @ (weights[:, None] * y)
    confusion = confusion / confusion.sum(dim=1, keepdim=True)
    ((confusion.sum() - confusion.trace()) / len(confusion)).backward()
    torch.testing.assert_close(logits.grad, plain.grad)


def test_a_class_that_no_image_has_divides_by_nothing():
    """Its probabilities are zero in float32, so that the plain formula is 0 / 0."""
    logits = torch.tensor([[9.0, 8.0, -1e4], [2.0, 3.0, -1e4]], requires_grad=True)
    assert logits.softmax(dim=1)[:, 2].sum() == 0
    loss = class_confusion(logits)
    loss.backward()
    assert 0 < loss < 1 and torch.isfinite(logits.grad).all()


def test_certain_and_diverse_predictions_confuse_nothing():
    assert class_confusion(100 * torch.eye(3)).item() == pytest.approx(0, abs=1e-6)
    assert class_confusion(torch.zeros(5, 4)).item() == pytest.approx(1 - 1 / 4)


def test_wrong_arguments():
    with pytest.raises(ValueError, match='temperature must be > 0, got 0'):
        class_confusion(torch.zeros(2, 3), temperature=0)
    with pytest.raises(ValueError, match='got 0 target'):
        class_confusion(torch.zeros(0, 3))


def _reference(features, probabilities, rounds):
    """Equations 5 to 7 as loops."""
    points = np.c_[features, np.ones(len(features))]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    classes = probabilities.shape[1]
    shares, labels = probabilities, None
    for turn in range(rounds + 1):
        guesses = probabilities.argmax(axis=1) if turn == 0 else labels
        found = []
        for point in points:
            distances = []
            for k in range(classes):
                centroid = sum(s[k] * p for s, p in zip(shares, points))
                near = point @ centroid / max(np.linalg.norm(centroid), 1e-12)
                distances.append(1 - near if k in guesses else np.inf)
            found.append(int(np.argmin(distances)))
        labels = np.array(found)
        shares = np.eye(classes)[labels]
    return labels


@pytest.mark.parametrize('rounds', [0, 1, 3])
@pytest.mark.parametrize('seed', range(3))
def test_labels_are_those_of_the_paper_written_as_loops(rounds, seed):
    random = np.random.default_rng(seed)
    centres = random.normal(0, 2, (4, 5))
    labels = random.integers(0, 3, 40)  # the last class has no image
    features = centres[labels] + random.normal(0, 1.5, (40, 5))
    logits = 2 * np.eye(4)[labels] + random.normal(0, 1, (40, 4)) - [0, 0, 0, 9]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = centroid_pseudo_labels(torch.tensor(features), torch.tensor(probabilities), rounds)
    np.testing.assert_array_equal(found.numpy(), _reference(features, probabilities, rounds))
    assert 3 not in found


def test_nothing_or_unequal_rows_are_refused():
    with pytest.raises(ValueError, match='got 0 and 0 rows'):
        centroid_pseudo_labels(torch.zeros(0, 2), torch.zeros(0, 3))
    with pytest.raises(ValueError, match='got 2 and 3 rows'):
        centroid_pseudo_labels(torch.zeros(2, 2), torch.zeros(3, 3))
