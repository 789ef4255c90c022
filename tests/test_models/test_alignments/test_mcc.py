import numpy as np
import pytest
import torch

from .batches import build, domain, numpy_parts, softmax


@pytest.mark.parametrize('temperature', [2.5, 1.0])
def test_value_is_that_of_the_confusion_matrix(temperature):
    source, target = domain(6), domain(4, seed=1, scale=4.0)
    y = softmax(numpy_parts(target)[0][1] / temperature)
    weights = 1 + np.exp((y * np.log(y)).sum(axis=1))
    confusion = y.T @ np.diag(len(y) * weights / weights.sum()) @ y
    confusion = confusion / confusion.sum(axis=1, keepdims=True)
    expected = (confusion.sum() - np.trace(confusion)) / 3
    found = build('MCCAlignment', temperature=temperature)(source, target)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_descending_makes_predictions_certain_without_giving_up_a_class():
    alignment = build('MCCAlignment', temperature=1.0)
    logits = domain(30, seed=1).logits.detach().requires_grad_()
    before = logits.argmax(dim=1).bincount(minlength=3)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        alignment(domain(4), domain(30)._replace(logits=logits)).backward()
        optimizer.step()
    assert alignment(domain(4), domain(30)._replace(logits=logits)) < 0.01
    after = logits.argmax(dim=1).bincount(minlength=3)
    assert (after >= before / 2).all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match='temperature must be > 0, got 0'):
        build('MCCAlignment', temperature=0)
