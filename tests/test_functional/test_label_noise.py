import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.losses import LabelSmoothLoss
from mmpretrain.registry import MODELS
from scipy.special import softmax

from tl_plugin.functional import (
    generalized_cross_entropy,
    soft_targets,
    symmetric_cross_entropy,
)
from tl_plugin.models import AdaptationClassifier

LABELS = torch.tensor([0, 2, 1, 3, 2, 2])


def _logits():
    return torch.tensor(np.random.default_rng(0).normal(size=(6, 4)) * 3, requires_grad=True)


@pytest.mark.parametrize('q', [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_by_hand(q):
    p = softmax(_logits().detach().numpy(), axis=1)
    found = generalized_cross_entropy(_logits(), soft_targets(LABELS, 4).double(), q)
    np.testing.assert_allclose(
        found.detach(), [(1 - row[label] ** q) / q for row, label in zip(p, LABELS)], atol=1e-12
    )


def test_generalized_cross_entropy_tends_to_cross_entropy():
    found = generalized_cross_entropy(_logits(), soft_targets(LABELS, 4).double(), q=1e-6)
    torch.testing.assert_close(
        found, F.cross_entropy(_logits(), LABELS, reduction='none'), rtol=1e-4, atol=1e-4
    )


def test_symmetric_cross_entropy_is_its_authors():
    """As in https://github.com/HanxunH/SCELoss-Reproduce, loss.py."""
    pred = F.softmax(_logits(), dim=1).clamp(min=1e-7, max=1.0)
    one_hot = F.one_hot(LABELS, 4).double().clamp(min=1e-4, max=1.0)
    reverse = -1 * torch.sum(pred * torch.log(one_hot), dim=1)
    expected = 0.1 * torch.nn.CrossEntropyLoss()(_logits(), LABELS) + 1.0 * reverse.mean()
    targets = soft_targets(LABELS, 4).double()
    found = symmetric_cross_entropy(_logits(), targets, 0.1, 1.0, np.log(1e-4)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('loss', [generalized_cross_entropy, symmetric_cross_entropy])
class TestBoth:
    def test_gradients(self, loss):
        targets = torch.tensor(softmax(np.random.default_rng(1).normal(size=(6, 4)), axis=1))
        assert torch.autograd.gradcheck(lambda logits: loss(logits, targets), _logits())

    def test_a_certain_error_has_a_finite_gradient(self, loss):
        logits = torch.tensor([[1e4, 0.0], [-1e4, 1e4]], requires_grad=True)
        loss(logits, soft_targets(torch.tensor([1, 0]), 2)).sum().backward()
        assert torch.isfinite(logits.grad).all()

    def test_half_precision(self, loss):
        found = loss(_logits().half(), soft_targets(LABELS, 4))
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), loss(_logits(), soft_targets(LABELS, 4)), rtol=0.01, atol=0.01
        )


@pytest.mark.parametrize('kind', ['generalized', 'symmetric'])
class TestTheLossOfAHead:
    def test_as_mmpretrain_calls_it(self, kind):
        loss = MODELS.build(dict(type='RobustLoss', kind=kind, loss_weight=2.0))
        each = loss(_logits(), LABELS, reduction_override='none')
        weight = torch.tensor([0.0, 1.0, 2.0, 1.0, 0.5, 1.0])
        torch.testing.assert_close(loss(_logits(), LABELS), each.mean())
        found = loss(_logits(), LABELS, weight=weight, avg_factor=3)
        torch.testing.assert_close(found, (each * weight).sum() / 3)

    def test_a_missing_label_counts_as_zero(self, kind):
        loss = MODELS.build(dict(type='RobustLoss', kind=kind, label_smooth_val=0.1))
        logits = _logits()
        each = loss(logits, torch.tensor([0, -1, 1, 3, -1, 2]), reduction_override='none')
        assert (each[[1, 4]] == 0).all() and (each[[0, 2, 3, 5]] > 0).all()
        each.sum().backward()
        assert (logits.grad[[1, 4]] == 0).all()

    def test_class_weights(self, kind):
        plain = MODELS.build(dict(type='RobustLoss', kind=kind, reduction='none'))
        factors = [1.0, 0.0, 2.0, 0.5]
        loss = MODELS.build(
            dict(type='RobustLoss', kind=kind, reduction='none', class_weight=factors)
        )
        expected = plain(_logits(), LABELS) * torch.tensor(factors)[LABELS]
        torch.testing.assert_close(loss(_logits(), LABELS), expected)
        with pytest.raises(ValueError, match='one factor per class, 3, got 4'):
            loss(_logits()[:, :3], LABELS.clamp(max=2))

    def test_labels_of_classes_and_one_hot_ones_are_the_same(self, kind):
        loss = MODELS.build(dict(type='RobustLoss', kind=kind))
        one_hot = F.one_hot(LABELS, 4).float()
        torch.testing.assert_close(loss(_logits(), LABELS), loss(_logits(), one_hot))

    def test_it_is_refused_beside_several_labels(self, kind):
        head = dict(type='MultiLabelLinearClsHead', num_classes=3)
        with pytest.raises(ValueError, match='for images of several: leave out the strategy'):
            AdaptationClassifier(
                backbone=dict(type='DANNDigitsBackbone'),
                head=dict(head, loss=dict(type='RobustLoss', kind=kind)),
            )


def test_smoothed_labels_are_those_of_mmpretrain():
    stock = LabelSmoothLoss(0.2, num_classes=4, mode='original')
    expected = stock.smooth_label(F.one_hot(LABELS, 4).float())
    torch.testing.assert_close(soft_targets(LABELS, 4, 0.2), expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(kind='gce'), "one of generalized, symmetric, got 'gce'"),
        (dict(q=0.0), r'q must be in \(0, 1\]'),
        (dict(log_zero=0.0), 'log_zero must be < 0'),
        (dict(label_smooth_val=1.0), r'in \[0, 1\)'),
        (dict(reduction='max'), 'one of none, mean, sum'),
        (dict(alpha=-1.0), 'alpha must be >= 0'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=f'RobustLoss: .*{message}'):
        MODELS.build(dict(type='RobustLoss', **options))
