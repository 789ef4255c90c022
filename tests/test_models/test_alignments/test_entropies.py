"""Entropy minimisation and information maximisation."""

import pytest
import scipy.stats
import torch

from .batches import build, domain, numpy_parts, softmax


def _entropies(batch):
    probabilities = softmax(numpy_parts(batch)[0][1])
    each = scipy.stats.entropy(probabilities, axis=1).mean()
    return each, scipy.stats.entropy(probabilities.mean(axis=0))


def test_entropy_minimization_is_scipys_entropy():
    target = domain(4, seed=1, scale=2.0)
    found = build('EntropyMinimization')(domain(6), target)
    assert found.item() == pytest.approx(_entropies(target)[0], abs=1e-6)


@pytest.mark.parametrize('weight', [1.0, 0.5, 0.0])
def test_information_maximization_is_scipys_entropies(weight):
    target = domain(4, seed=1, scale=2.0)
    alignment = build('InformationMaximization', diversity_weight=weight)
    entropy, diversity = _entropies(target)
    assert alignment(domain(6), target).item() == pytest.approx(
        entropy - weight * diversity, abs=1e-6
    )
    assert alignment.diagnostics['entropy'].item() == pytest.approx(entropy, abs=1e-6)
    assert alignment.diagnostics['diversity'].item() == pytest.approx(diversity, abs=1e-6)


def test_diversity_keeps_all_classes():
    """From predictions that favour one class: entropy alone falls into it, diversity does not."""
    classes = {}
    for name in ('EntropyMinimization', 'InformationMaximization'):
        torch.manual_seed(0)
        logits = (torch.randn(30, 3) * 0.5 + torch.tensor([1.0, 0.0, 0.0])).requires_grad_()
        bias = torch.zeros(3, requires_grad=True)
        alignment, optimizer = build(name), torch.optim.Adam([bias], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            batch = domain(30)._replace(logits=5 * (logits + bias))
            alignment(domain(4), batch).backward()
            optimizer.step()
        classes[name] = (logits + bias).argmax(dim=1).bincount(minlength=3)
    assert classes['EntropyMinimization'].max() >= 29
    assert classes['InformationMaximization'].min() >= 5


def test_a_negative_weight_of_diversity_is_refused():
    with pytest.raises(ValueError, match='diversity_weight must be >= 0, got -1'):
        build('InformationMaximization', diversity_weight=-1)
