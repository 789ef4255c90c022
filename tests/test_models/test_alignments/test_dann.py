import copy

import numpy as np
import pytest
import torch
from torch import nn

from tl_plugin.functional import input_gradient_penalty, sigmoid_ramp
from tl_plugin.models.alignments import DANNHead, DomainBatch

from .batches import build, domain


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
        head = build('DANNHead', hidden_channels=[8]).double()
        source, target = domain(5), domain(3, seed=1)
        source, target = (
            DomainBatch(batch.features.detach().double()) for batch in (source, target)
        )
        features = torch.cat([source.features, target.features]).numpy()
        expected = _numpy_domain_loss(head, features, 5)
        assert head(source, target).item() == pytest.approx(expected, abs=1e-10)

    @pytest.mark.parametrize('progress', [0.0, 0.2, 1.0])
    def test_features_get_the_reversed_gradient_the_classifier_its_own(self, progress):
        grads = {}
        for reversal_weight in (0.0, 2.0):
            head = build('DANNHead', hidden_channels=[8], reversal_weight=reversal_weight)
            head.set_progress(progress)
            source, target = domain(5), domain(3, seed=1)
            head(source, target).backward()
            own = [weight.grad for weight in head.parameters()]
            grads[reversal_weight] = (source.features.grad, own)
        # An independent path: the same classifier without a reversal layer.
        head = build('DANNHead', hidden_channels=[8])
        features = domain(5).features
        logits = head.classifier(torch.cat([features, domain(3, seed=1).features]))
        label = torch.tensor([0.0] * 5 + [1.0] * 3)[:, None]
        weight = torch.tensor([0.1] * 5 + [1 / 6] * 3)[:, None]
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = bce(logits, label, weight, reduction='sum')
        plain = torch.autograd.grad(loss, features)[0]

        factor = 2 * sigmoid_ramp(torch.tensor(progress))
        torch.testing.assert_close(grads[2.0][0], -factor * plain)
        for with_, without in zip(grads[2.0][1], grads[0.0][1]):
            torch.testing.assert_close(with_, without)

    def test_reversal_weight_follows_progress_or_stays(self):
        rising, constant = build('DANNHead', reversal_weight=0.5), build('DANNHead', gamma=None)
        for progress in (0.0, 0.3, 1.0):
            for head in (rising, constant):
                head.set_progress(progress)
            expected = 0.5 * (2 / (1 + np.exp(-10 * progress)) - 1)
            assert rising.current_reversal_weight().item() == pytest.approx(expected, abs=1e-6)
            assert constant.current_reversal_weight().item() == 1.0

    def test_a_classifier_that_can_learn_does(self):
        head = build('DANNHead', hidden_channels=[16], norm='BN', dropout=0.1, reversal_weight=0.0)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        source, target = torch.randn(64, 6), torch.randn(64, 6) + 2
        for _ in range(50):
            optimizer.zero_grad()
            head(DomainBatch(source), DomainBatch(target)).backward()
            optimizer.step()
        assert head.diagnostics['accuracy'] > 0.9

    def test_spectral_norm_bounds_every_layer(self):
        head = build('DANNHead', hidden_channels=[16], spectral_norm=True)
        with torch.no_grad():
            for name, weight in head.named_parameters():
                if name.endswith('original'):
                    weight *= 50
        for _ in range(50):  # its power iteration goes on at every training step
            head(domain(4), domain(4, seed=1))
        weights = [layer.weight for layer in head.classifier if isinstance(layer, nn.Linear)]
        assert len(weights) == 2
        for weight in weights:
            largest = np.linalg.svd(weight.detach().numpy(), compute_uv=False)[0]
            assert largest == pytest.approx(1, abs=1e-3)

    def test_a_head_with_spectral_norm_can_be_copied_and_restored(self):
        head = build('DANNHead', hidden_channels=[16], spectral_norm=True).eval()
        twin = copy.deepcopy(head)
        twin.load_state_dict(head.state_dict())
        losses = [each(domain(4), domain(4, seed=1)) for each in (head, twin)]
        assert torch.equal(*losses)

    def test_gradient_penalty_adds_half_of_each_domains_and_reaches_the_classifier_alone(self):
        kwargs = dict(hidden_channels=[8])
        plain = build('DANNHead', **kwargs)
        penalised = build('DANNHead', gradient_penalty=3.0, **kwargs)
        source, target = domain(5), domain(3, seed=1)
        expected = []
        for batch in (source, target):
            rows = batch.features.detach()
            gradients = [
                torch.autograd.functional.jacobian(lambda x: plain.classifier(x).sum(), row[None])
                for row in rows
            ]
            expected.append(np.mean([gradient.norm().item() ** 2 for gradient in gradients]))
        base, loss = plain(source, target), penalised(source, target)
        assert loss.item() == pytest.approx(base.item() + 3.0 * np.mean(expected), rel=1e-5)
        found = penalised.diagnostics['gradient_penalty'].item()
        assert found == pytest.approx(np.mean(expected), rel=1e-5)

        grads = [torch.autograd.grad(each, source.features)[0] for each in (base, loss)]
        torch.testing.assert_close(*grads)
        penalised(source, target).backward()
        plain(source, target).backward()
        weights = [head.classifier[0].weight.grad for head in (plain, penalised)]
        assert not torch.allclose(*weights)

    def test_a_compiled_step_can_be_penalised(self):
        head = build('DANNHead', hidden_channels=[8], gradient_penalty=0.1)
        grads = []
        for forward in (head, torch.compile(head, backend='aot_eager')):
            head.zero_grad()
            forward(domain(4), domain(3, seed=1)).backward()
            grads.append([weight.grad.clone() for weight in head.parameters()])
        torch.testing.assert_close(*grads)

    def test_a_penalised_classifier_stays_flat(self):
        slopes = []
        for penalty in (0.0, 10.0):
            kwargs = dict(hidden_channels=[16], gradient_penalty=penalty)
            head = build('DANNHead', reversal_weight=0.0, **kwargs)
            optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
            torch.manual_seed(0)
            source, target = torch.randn(64, 6), torch.randn(64, 6) + 2
            for _ in range(50):
                optimizer.zero_grad()
                head(DomainBatch(source), DomainBatch(target)).backward()
                optimizer.step()
            slopes.append(input_gradient_penalty(head.classifier, source).item())
        assert slopes[1] < 0.2 * slopes[0]

    @pytest.mark.parametrize(
        ('wrong', 'message'),
        [
            (dict(norm='LN'), "'BN' or None, got 'LN'"),
            (dict(dropout=1.0), r'\[0, 1\), got 1.0'),
            (dict(reversal_weight=-1), '>= 0, got -1'),
            (dict(gamma=0), '> 0 or None'),
            (dict(label_smoothing=0.5), r'\[0, 0.5\), got 0.5'),
            (dict(gradient_penalty=-1), '>= 0, got -1'),
            (dict(gradient_penalty=1, norm='BN'), "norm='BN' couples: use one of the two"),
        ],
    )
    def test_wrong_arguments(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            DANNHead(in_features=6, num_classes=3, **wrong)
