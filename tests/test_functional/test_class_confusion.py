import numpy as np
import pytest
import torch

from tl_plugin.functional import class_confusion


def _logits(size=7, classes=4, scale=3.0):
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
    logits = _logits(size)
    found = class_confusion(torch.tensor(logits), temperature)
    assert found.item() == pytest.approx(_paper(logits, temperature), abs=1e-12)


def test_gradient_is_that_of_the_plain_formula():
    """Written with matrices and a division; the weights are constants, as in the paper."""
    logits, plain = (torch.tensor(_logits(), requires_grad=True) for _ in range(2))
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
