import numpy as np
import pytest
import torch
from torch import nn

from .batches import build, domain, numpy_parts, softmax


def test_value_is_the_papers():
    head = build('MDDHead', hidden_channels=[], margin=2.0)
    source, target = domain(5), domain(3, seed=1)
    weight, bias = (part.detach().double().numpy() for part in head.classifier[0].parameters())
    terms = []
    for (features, logits), on_source in zip(numpy_parts(source, target), (True, False)):
        adversary = softmax(features @ weight.T + bias)
        same = adversary[np.arange(len(logits)), logits.argmax(axis=1)]
        terms.append(-np.log(same if on_source else 1 - same).mean())
    found = head(source, target)
    assert found.item() == pytest.approx(2.0 * terms[0] + terms[1], abs=1e-5)


def test_second_classifier_descends_and_features_ascend():
    head = build('MDDHead', hidden_channels=[8], dropout=0.0, reversal_weight=1.0, gamma=None)
    source, target = domain(5), domain(3, seed=1)
    before = head(source, target)
    before.backward()
    assert source.logits.grad is None and target.logits.grad is None
    stepped = target._replace(features=target.features - 0.01 * target.features.grad)
    assert head(source, stepped) > before
    with torch.no_grad():
        for weight in head.parameters():
            weight -= 0.01 * weight.grad
    assert head(source, target) < before


def test_it_learns_to_agree_on_the_source_and_to_disagree_on_the_target():
    head = build('MDDHead', hidden_channels=[16], dropout=0.0, reversal_weight=0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    torch.manual_seed(0)
    features = torch.randn(40, 6)
    logits = 5 * nn.functional.one_hot(features[:, :3].argmax(dim=1), 3).float()
    source = domain(40)._replace(features=features, logits=logits)
    target = source._replace(features=features + 4)
    for _ in range(200):
        optimizer.zero_grad()
        head(source, target).backward()
        optimizer.step()
    assert head.diagnostics['source_agreement'] > 0.9
    assert head.diagnostics['target_agreement'] < 0.1


def test_the_reversal_weight_ends_at_a_tenth():
    assert build('MDDHead', progress=1.0).current_reversal_weight().item() == pytest.approx(
        0.1, 1e-3
    )


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(margin=0.5), 'margin must be >= 1, got 0.5'),
        (dict(reversal_weight=-1), '>= 0, got -1'),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=f'MDDHead: .*{message}'):
        build('MDDHead', **wrong)
