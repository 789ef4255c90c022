"""One contract for every registered alignment, and the values of each."""

import inspect

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

import tl_plugin.models.alignments as alignments
from tl_plugin.functional import sigmoid_ramp
from tl_plugin.models.alignments import Alignment, DANNHead, DomainBatch

ALIGNMENTS = [
    name
    for name, kind in vars(alignments).items()
    if inspect.isclass(kind) and issubclass(kind, Alignment) and kind is not Alignment
]


def _batch(size, features=6, classes=3, labels=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return DomainBatch(
        features=torch.randn(size, features, generator=generator, requires_grad=True),
        logits=torch.randn(size, classes, generator=generator, requires_grad=True),
        labels=torch.arange(size) % classes if labels else torch.full((size,), -1),
    )


def _build(name, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type=name, in_features=6, num_classes=3, **kwargs))


@pytest.mark.parametrize('name', ALIGNMENTS)
class TestContract:
    def test_builds_by_name_and_by_dotted_path(self, name):
        kind = getattr(alignments, name)
        assert type(_build(name)) is kind
        assert type(_build(f'{kind.__module__}.{name}')) is kind

    def test_gradient_reaches_both_domains_with_unequal_sizes(self, name):
        alignment, source, target = _build(name), _batch(5), _batch(3, labels=False, seed=1)
        alignment.set_progress(0.5)
        loss = alignment(source, target)
        assert loss.dim() == 0 and torch.isfinite(loss)
        loss.backward()
        for batch in (source, target):
            grads = [x.grad for x in (batch.features, batch.logits) if x.grad is not None]
            assert sum(grad.abs().sum() for grad in grads) > 0

    def test_target_labels_change_nothing(self, name):
        losses = set()
        for labels in (torch.full((3,), -1), torch.tensor([2, 0, 1])):
            alignment = _build(name)
            alignment.set_progress(0.5)
            target = _batch(3, seed=1)._replace(labels=labels)
            losses.add(alignment(_batch(5), target).item())
        assert len(losses) == 1

    def test_one_image_in_a_domain(self, name):
        alignment = _build(name)
        alignment.set_progress(0.5)
        assert torch.isfinite(alignment(_batch(4), _batch(1, labels=False, seed=1)))

    def test_an_empty_domain_is_refused(self, name):
        with pytest.raises(ValueError, match='0 target'):
            _build(name)(_batch(4), _batch(0, labels=False))

    def test_negative_weight_is_refused(self, name):
        with pytest.raises(ValueError, match='loss_weight must be >= 0, got -1'):
            _build(name, loss_weight=-1)

    def test_nothing_logged_counts_as_a_loss(self, name):
        alignment = _build(name)
        alignment(_batch(4), _batch(4, seed=1))
        assert not any('loss' in key for key in alignment.diagnostics)
        assert not any(value.requires_grad for value in alignment.diagnostics.values())

    def test_progress_is_not_in_the_checkpoint(self, name):
        assert not any('progress' in key for key in _build(name).state_dict())


def _numpy_domain_loss(head, features, num_source):
    """The forward of a two-layer domain classifier and its loss, by hand."""
    hidden, last = (module for module in head.classifier if isinstance(module, nn.Linear))
    out = np.maximum(features @ hidden.weight.detach().numpy().T + hidden.bias.detach().numpy(), 0)
    logits = (out @ last.weight.detach().numpy().T + last.bias.detach().numpy())[:, 0]
    probability = 1 / (1 + np.exp(-logits))
    source, target = probability[:num_source], probability[num_source:]
    return -0.5 * (np.log(1 - source).mean() + np.log(target).mean())


class TestDANNHead:
    def test_value_is_that_of_a_hand_written_classifier(self):
        head = _build('DANNHead', hidden_channels=[8]).double()
        source, target = _batch(5), _batch(3, seed=1)
        source, target = (
            DomainBatch(batch.features.detach().double()) for batch in (source, target)
        )
        features = torch.cat([source.features, target.features]).numpy()
        expected = _numpy_domain_loss(head, features, 5)
        assert head(source, target).item() == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize('progress', [0.0, 0.2, 1.0])
    def test_features_get_the_reversed_gradient_the_classifier_its_own(self, progress):
        grads = {}
        for coefficient in (0.0, 2.0):
            head = _build('DANNHead', hidden_channels=[8], coefficient=coefficient)
            head.set_progress(progress)
            source, target = _batch(5), _batch(3, seed=1)
            head(source, target).backward()
            own = [weight.grad for weight in head.parameters()]
            grads[coefficient] = (source.features.grad, own)
        # An independent path: the same classifier without a reversal layer.
        head = _build('DANNHead', hidden_channels=[8])
        features = _batch(5).features
        logits = head.classifier(torch.cat([features, _batch(3, seed=1).features]))
        label = torch.tensor([0.0] * 5 + [1.0] * 3)[:, None]
        weight = torch.tensor([0.1] * 5 + [1 / 6] * 3)[:, None]
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = bce(logits, label, weight, reduction='sum')
        plain = torch.autograd.grad(loss, features)[0]

        factor = 2 * sigmoid_ramp(torch.tensor(progress))
        torch.testing.assert_close(grads[2.0][0], -factor * plain)
        for with_, without in zip(grads[2.0][1], grads[0.0][1]):
            torch.testing.assert_close(with_, without)

    def test_coefficient_follows_progress_or_stays(self):
        rising, constant = _build('DANNHead', coefficient=0.5), _build('DANNHead', gamma=None)
        for progress in (0.0, 0.3, 1.0):
            for head in (rising, constant):
                head.set_progress(progress)
            expected = 0.5 * (2 / (1 + np.exp(-10 * progress)) - 1)
            assert rising.current_coefficient().item() == pytest.approx(expected, abs=1e-6)
            assert constant.current_coefficient().item() == 1.0

    def test_a_classifier_that_can_learn_does(self):
        head = _build('DANNHead', hidden_channels=[16], norm='BN', dropout=0.1, coefficient=0.0)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        source, target = torch.randn(64, 6), torch.randn(64, 6) + 2
        for _ in range(50):
            optimizer.zero_grad()
            head(DomainBatch(source), DomainBatch(target)).backward()
            optimizer.step()
        assert head.diagnostics['accuracy'] > 0.9

    @pytest.mark.parametrize(
        ('wrong', 'message'),
        [
            (dict(norm='LN'), "'BN' or None, got 'LN'"),
            (dict(dropout=1.0), r'\[0, 1\), got 1.0'),
            (dict(coefficient=-1), '>= 0, got -1'),
            (dict(gamma=0), '> 0 or None'),
            (dict(label_smoothing=0.5), r'\[0, 0.5\), got 0.5'),
        ],
    )
    def test_wrong_arguments(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            DANNHead(in_features=6, num_classes=3, **wrong)
