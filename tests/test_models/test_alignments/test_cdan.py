import copy

import numpy as np
import pytest
import torch
from torch import nn

from tl_plugin.models.alignments import CDANHead

from .batches import build, domain, numpy_parts, softmax


def _forward(head, inputs):
    """The domain classifier, one hidden layer, in numpy."""
    hidden, last = (module for module in head.classifier if isinstance(module, nn.Linear))
    weights = [part.detach().numpy() for part in (hidden.weight, hidden.bias)]
    out = np.maximum(inputs @ weights[0].T + weights[1], 0)
    return (out @ last.weight.detach().numpy().T + last.bias.detach().numpy())[:, 0]


def _expected(head, source, target, conditioned):
    loss = 0.0
    for (features, logits), is_target in ((source, False), (target, True)):
        classes = softmax(logits)
        outer = np.einsum('nd,nk->ndk', features, classes).reshape(len(features), -1)
        scores = _forward(head, outer)
        terms = np.logaddexp(0, -scores if is_target else scores)
        weights = np.ones(len(terms))
        if conditioned:
            weights = 1 + np.exp((classes * np.log(classes)).sum(axis=1))
        loss += 0.5 * (weights * terms).sum() / weights.sum()
    return loss


@pytest.mark.parametrize('conditioned', [False, True])
def test_value_is_that_of_a_hand_written_classifier(conditioned):
    head = build('CDANHead', hidden_channels=[8], entropy_conditioning=conditioned).double()
    source, target = domain(5), domain(3, seed=1)
    doubles = [batch._replace(features=batch.features.double()) for batch in (source, target)]
    doubles = [batch._replace(logits=batch.logits.double()) for batch in doubles]
    expected = _expected(head, *numpy_parts(source, target), conditioned)
    assert head(*doubles).item() == pytest.approx(expected, abs=1e-12)


def test_conditioning_changes_the_value():
    source, target = domain(5, scale=3), domain(3, seed=1, scale=3)
    losses = {build('CDANHead', entropy_conditioning=on)(source, target).item() for on in (0, 1)}
    assert len(losses) == 2


def test_features_get_the_reversed_gradient_and_predictions_none():
    grads = []
    for reversal_weight in (0.0, 1.0, 2.0):
        head = build('CDANHead', hidden_channels=[8], reversal_weight=reversal_weight, gamma=None)
        source, target = domain(5), domain(3, seed=1)
        head(source, target).backward()
        assert source.logits.grad is None and target.logits.grad is None
        grads.append((source.features.grad, head.classifier[0].weight.grad))
    assert torch.equal(grads[0][0], torch.zeros_like(grads[0][0]))
    torch.testing.assert_close(grads[2][0], 2 * grads[1][0])
    torch.testing.assert_close(grads[2][1], grads[1][1])
    # Uphill for the domain classifier's loss.
    head, source, target = build('CDANHead', hidden_channels=[8]), domain(5), domain(3, seed=1)
    before = head(source, target)
    stepped = source._replace(features=source.features - 0.01 * grads[1][0])
    assert head(stepped, target) > before


@pytest.mark.parametrize(('max_channels', 'width', 'is_random'), [(18, 18, False), (17, 8, True)])
def test_large_products_are_projected(max_channels, width, is_random):
    head = build('CDANHead', max_channels=max_channels, random_channels=8)
    assert head.is_random() is is_random
    assert head.classifier[0].in_features == width
    assert head.classifier_inputs(domain(5)).shape == (5, width)
    names = {'feature_projection', 'prediction_projection'}
    assert names <= set(head.state_dict()) if is_random else not names & set(head.state_dict())


def test_projections_do_not_depend_on_the_seed():
    """Ranks may have seeds of their own, and must agree."""
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        heads.append(CDANHead(in_features=6, num_classes=3, max_channels=1, random_channels=8))
    assert torch.equal(heads[0].feature_projection, heads[1].feature_projection)
    assert torch.equal(heads[0].prediction_projection, heads[1].prediction_projection)
    assert not torch.equal(heads[0].feature_projection[:3], heads[0].prediction_projection)


def test_projections_are_fixed_and_not_trained():
    head = build('CDANHead', max_channels=1, random_channels=8)
    before = copy.deepcopy(head.state_dict())
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    head(domain(4), domain(4, seed=1)).backward()
    optimizer.step()
    after = head.state_dict()
    assert torch.equal(before['feature_projection'], after['feature_projection'])
    assert not torch.equal(before['classifier.0.weight'], after['classifier.0.weight'])


def test_it_tells_apart_what_a_classifier_of_features_cannot():
    """Same features in both domains, other classes for them: DANN is blind, CDAN is not."""
    features, accuracies = torch.randn(64, 6), {}
    flags = features[:, 0] > 0
    for name in ('DANNHead', 'CDANHead'):
        head = build(name, hidden_channels=[16], reversal_weight=0.0)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        batches = []
        for classes in (flags.long(), 1 - flags.long()):
            logits = 10 * nn.functional.one_hot(classes, 3).float()
            batches.append(domain(64)._replace(features=features, logits=logits))
        for _ in range(60):
            optimizer.zero_grad()
            head(*batches).backward()
            optimizer.step()
        accuracies[name] = head.diagnostics['accuracy'].item()
    assert accuracies['DANNHead'] == 0.5 and accuracies['CDANHead'] > 0.9


def test_wrong_arguments():
    with pytest.raises(ValueError, match='random_channels must be >= 1, got 0'):
        build('CDANHead', random_channels=0)
    with pytest.raises(ValueError, match='CDANHead: gamma must be > 0'):
        build('CDANHead', gamma=0)
