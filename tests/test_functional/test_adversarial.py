import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, log_loss
from torch import nn

from tl_plugin.functional import (
    domain_accuracy,
    domain_classification_loss,
    gradient_reversal,
    input_gradient_penalty,
    log_one_minus_softmax,
    margin_disparity_loss,
    multilinear_map,
    random_multilinear_map,
    several_domains_accuracy,
    several_domains_loss,
    sigmoid_ramp,
)


@pytest.mark.parametrize('reversal_weight', [0.0, 0.3, 1.0, torch.tensor(0.3)])
def test_forward_is_identity_and_backward_is_reversed(reversal_weight):
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    plain = torch.autograd.grad((x**3).sum(), x)[0]

    reversed_ = gradient_reversal(x, reversal_weight)

    assert torch.equal(reversed_, x)
    gradient = torch.autograd.grad((reversed_**3).sum(), x)[0]
    torch.testing.assert_close(gradient, -float(reversal_weight) * plain)


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r'must not be negative, got -0\.1'):
        gradient_reversal(torch.ones(1), -0.1)


def test_half_precision_gradient_keeps_its_type():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    gradient_reversal(x, torch.tensor(0.5)).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_ramp_is_the_papers_formula():
    progress = np.linspace(0, 1, 21)
    for gamma in (2.0, 10.0):
        expected = 2 / (1 + np.exp(-gamma * progress)) - 1
        found = sigmoid_ramp(torch.tensor(progress), gamma).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()


def test_value_is_that_of_the_gradient_by_hand():
    network, inputs = _network(), torch.randn(5, 4, dtype=torch.double)
    weights = [part.detach().numpy() for part in network.parameters()]
    active = inputs.numpy() @ weights[0].T + weights[1] > 0
    gradients = [weights[2][0] * row @ weights[0] for row in active]
    expected = np.mean([np.sum(gradient**2) for gradient in gradients])
    np.testing.assert_allclose(input_gradient_penalty(network, inputs).item(), expected)


def test_the_network_alone_gets_a_gradient():
    network = _network()
    inputs = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    input_gradient_penalty(network, inputs).backward()
    assert inputs.grad is None
    assert network[0].weight.grad.abs().sum() > 0
    epsilon, weight = 1e-6, network[2].weight
    before = input_gradient_penalty(network, inputs).item()
    with torch.no_grad():
        weight[0, 3] += epsilon
    slope = (input_gradient_penalty(network, inputs).item() - before) / epsilon
    np.testing.assert_allclose(weight.grad[0, 3], slope, rtol=1e-4, atol=1e-8)


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert input_gradient_penalty(_network(), torch.randn(3, 4, dtype=torch.double)) > 0


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
def test_empty_domain_is_refused_of_domain_classification(num_source, num_target):
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


def _inputs(size=5):
    random = np.random.default_rng(0)
    return random.normal(size=(size, 4)), random.dirichlet(np.ones(3), size=size)


def test_map_is_the_kronecker_product():
    features, predictions = _inputs()
    expected = [np.kron(f, g) for f, g in zip(features, predictions)]
    np.testing.assert_allclose(
        multilinear_map(torch.tensor(features), torch.tensor(predictions)), expected
    )


def test_random_map_keeps_inner_products():
    """In expectation those of the outer products (theorem 1 of the paper)."""
    features, predictions = (torch.tensor(part) for part in _inputs())
    torch.manual_seed(0)
    projections = [torch.randn(width, 200_000, dtype=torch.double) for width in (4, 3)]
    short = random_multilinear_map(features, predictions, *projections)
    long = multilinear_map(features, predictions)
    np.testing.assert_allclose(short @ short.T, long @ long.T, atol=0.03 * float(long.norm() ** 2))


def test_random_map_is_the_papers_formula():
    features, predictions = _inputs()
    random = np.random.default_rng(1)
    projections = [random.normal(size=(width, 7)) for width in (4, 3)]
    expected = (features @ projections[0]) * (predictions @ projections[1]) / np.sqrt(7)
    found = random_multilinear_map(
        *(torch.tensor(part) for part in (features, predictions, *projections))
    )
    np.testing.assert_allclose(found, expected)


def _logits(seed, size, classes=4):
    return np.random.default_rng(seed).normal(size=(size, classes)) * 2


def test_value_is_the_papers():
    source, target = _logits(0, 5), _logits(1, 3)
    source_adversary, target_adversary = _logits(2, 5), _logits(3, 3)
    agree, disagree = [], []
    for scores, other in zip(source, softmax(source_adversary, axis=1)):
        agree.append(-np.log(other[np.argmax(scores)]))
    for scores, other in zip(target, softmax(target_adversary, axis=1)):
        disagree.append(-np.log(1 - other[np.argmax(scores)]))
    expected = 3.0 * np.mean(agree) + np.mean(disagree)
    logits = [torch.tensor(x) for x in (source, target, source_adversary, target_adversary)]
    assert margin_disparity_loss(*logits, margin=3.0).item() == pytest.approx(expected, abs=1e-12)


def test_log_of_the_rest_is_exact_and_has_a_gradient_at_certainty():
    logits = torch.tensor([[1e5, 0.0, 0.0], [0.0, 1e5, 3.0]], requires_grad=True)
    found = log_one_minus_softmax(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([np.log(2) - 1e5, 0.0], dtype=torch.float32))
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_gradients():
    adversary = [torch.tensor(_logits(seed, 3), requires_grad=True) for seed in (2, 3)]
    logits = [torch.tensor(_logits(seed, 3)) for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda *x: margin_disparity_loss(*logits, *x), adversary)


def test_empty_domain_is_refused_of_margin_disparity():
    empty, some = torch.zeros(0, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match='got 2 source and 0 target'):
        margin_disparity_loss(some, empty, some, empty)
