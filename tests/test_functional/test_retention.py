"""What keeps the old ability, against the formulas of the papers and of TLlib, in numpy."""

import numpy as np
import pytest
import torch

from tl_plugin.functional import (
    batch_spectral_shrinkage,
    distillation_loss,
    feature_map_distance,
    starting_point_penalty,
)

RANDOM = np.random.default_rng(0)


def _arrays(*shapes):
    return [RANDOM.normal(size=shape) for shape in shapes]


def _tensors(arrays, grad=False):
    return [torch.tensor(array, requires_grad=grad) for array in arrays]


class TestStartingPoint:
    def test_value_is_that_of_the_paper_and_of_tllib(self):
        shapes = [(3, 4), (4,), (2, 3, 1, 1)]
        start, now = _arrays(*shapes), _arrays(*shapes)
        # TLlib adds half the squared Frobenius norm tensor by tensor.
        expected = sum(0.5 * np.linalg.norm((b - a).ravel()) ** 2 for a, b in zip(start, now))
        found = starting_point_penalty(_tensors(start), _tensors(now))
        assert found.item() == pytest.approx(expected, rel=1e-12)

    def test_gradient_is_the_difference_and_the_start_gets_none(self):
        start, now = _tensors(_arrays((3, 4)), True), _tensors(_arrays((3, 4)), True)
        starting_point_penalty(start, now).backward()
        torch.testing.assert_close(now[0].grad, (now[0] - start[0]).detach())
        assert start[0].grad is None

    @pytest.mark.parametrize(
        ('start', 'now', 'message'),
        [([(2,)], [(2,), (3,)], 'same shapes'), ([(1,)], [(2,)], 'same shapes')],
    )
    def test_lists_that_do_not_fit(self, start, now, message):
        with pytest.raises(ValueError, match=message):
            starting_point_penalty(_tensors(_arrays(*start)), _tensors(_arrays(*now)))


class TestFeatureMaps:
    SHAPES = [(5, 6, 3, 4), (5, 8, 2, 2), (5, 7)]

    def test_value_is_that_of_deltas_attention_with_equal_weights(self):
        source, adapted = _arrays(*self.SHAPES), _arrays(*self.SHAPES)
        expected = 0.0
        for before, after in zip(source, adapted):
            images, channels = before.shape[:2]
            before, after = (maps.reshape(images, channels, -1) for maps in (before, after))
            # As in TLlib: c * attention * |difference|^2 / (h * w), here one channel at a time.
            for channel in range(channels):
                distance = np.linalg.norm(after[:, channel] - before[:, channel], axis=1) ** 2
                expected += 0.5 * (channels * (1 / channels) * distance / after.shape[2]).sum()
        found = feature_map_distance(_tensors(source), _tensors(adapted))
        assert 5 * found.item() == pytest.approx(expected, rel=1e-12)  # TLlib adds over images

    def test_tokens_and_channels_last_count_like_maps(self):
        source, adapted = _tensors(_arrays((2, 6, 5, 5))), _tensors(_arrays((2, 6, 5, 5)))
        expected = feature_map_distance(source, adapted)
        for change in (lambda x: x.flatten(2).mT, lambda x: x.movedim(1, -1)):
            found = feature_map_distance(*([change(maps[0])] for maps in (source, adapted)))
            torch.testing.assert_close(found, expected)

    def test_relative_to_maps_of_nothing_it_stays_finite(self):
        adapted = torch.ones(2, 3, requires_grad=True)
        loss = feature_map_distance([torch.zeros(2, 3)], [adapted], [torch.zeros(())])
        loss.backward()
        assert loss.item() == 1.5 and torch.isfinite(adapted.grad).all()
        scaled = [
            feature_map_distance(
                [scale * torch.eye(3)], [scale * torch.ones(3, 3)], [torch.tensor(3 * scale**2)]
            )
            for scale in (1.0, 1e3)
        ]
        torch.testing.assert_close(*scaled)

    def test_gradient_reaches_the_adapted_model_alone(self):
        source, adapted = _tensors(_arrays((3, 4)), True), _tensors(_arrays((3, 4)), True)
        feature_map_distance(source, adapted).backward()
        torch.testing.assert_close(adapted[0].grad, (adapted[0] - source[0]).detach() / 3)
        assert source[0].grad is None

    @pytest.mark.parametrize(
        ('source', 'adapted', 'message'),
        [
            ([(2, 3)], [(2, 4)], 'same shapes'),
            ([(0, 3)], [(0, 3)], '0 images'),
        ],
    )
    def test_maps_that_do_not_fit(self, source, adapted, message):
        with pytest.raises(ValueError, match=message):
            feature_map_distance(_tensors(_arrays(*source)), _tensors(_arrays(*adapted)))


class TestDistillation:
    @pytest.mark.parametrize('temperature', [1.0, 2.0, 5.0])
    def test_value_is_the_papers_cross_entropy_less_its_constant(self, temperature):
        source, adapted = _arrays((6, 4), (6, 4))
        # LwF: y' = y^(1/T) / sum y^(1/T), recorded and predicted, and their cross-entropy.
        softened = []
        for logits in (source, adapted):
            powers = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)) ** (1 / temperature)
            softened.append(powers / powers.sum(1, keepdims=True))
        cross_entropy = -(softened[0] * np.log(softened[1])).sum(1).mean()
        constant = -(softened[0] * np.log(softened[0])).sum(1).mean()
        found = distillation_loss(*_tensors([source, adapted]), temperature)
        assert found.item() == pytest.approx(cross_entropy - constant, rel=1e-9)

    def test_equal_predictions_cost_nothing_and_the_teacher_gets_no_gradient(self):
        source = torch.tensor(_arrays((3, 4))[0], requires_grad=True)
        adapted = source.detach().clone().requires_grad_()
        loss = distillation_loss(source, adapted)
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert source.grad is None and adapted.grad.abs().max() < 1e-12

    def test_certain_predictions_stay_finite(self):
        source = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
        adapted = (-source).requires_grad_()
        loss = distillation_loss(source, adapted)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(adapted.grad).all()

    @pytest.mark.parametrize(
        ('shapes', 'temperature', 'message'),
        [
            (((2, 3), (2, 4)), 2.0, 'one shape'),
            (((0, 3), (0, 3)), 2.0, '0 images'),
            (((2, 3), (2, 3)), 0.0, 'temperature must be > 0'),
        ],
    )
    def test_wrong_arguments(self, shapes, temperature, message):
        with pytest.raises(ValueError, match=message):
            distillation_loss(*_tensors(_arrays(*shapes)), temperature)


class TestSpectralShrinkage:
    @pytest.mark.parametrize('shape', [(5, 8), (8, 5), (4, 4), (1, 6)])
    @pytest.mark.parametrize('k', [1, 3, 99])
    def test_value_is_that_of_numpys_decomposition(self, shape, k):
        features = RANDOM.normal(size=shape)
        # TLlib: the last k of the singular values of the transposed features, squared.
        expected = (np.linalg.svd(features.T, compute_uv=False)[::-1][:k] ** 2).sum()
        found = batch_spectral_shrinkage(torch.tensor(features), k)
        assert found.item() == pytest.approx(expected, rel=1e-9)

    def test_small_values_beside_a_large_one_are_not_lost(self):
        values = np.array([1e4, 1.0, 0.1])
        rotations = [np.linalg.qr(RANDOM.normal(size=(3, 3)))[0] for _ in range(2)]
        features = torch.tensor(rotations[0] @ np.diag(values) @ rotations[1]).float()
        assert batch_spectral_shrinkage(features).item() == pytest.approx(0.01, rel=0.05)

    @pytest.mark.parametrize('features', [torch.zeros(4, 3), torch.eye(4), torch.ones(4, 3)])
    def test_equal_values_have_a_finite_gradient(self, features):
        features = features.clone().requires_grad_()
        batch_spectral_shrinkage(features, k=2).backward()
        assert torch.isfinite(features.grad).all()

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match='0 images'):
            batch_spectral_shrinkage(torch.zeros(0, 3))
        with pytest.raises(ValueError, match='k must be at least 1'):
            batch_spectral_shrinkage(torch.zeros(2, 3), k=0)
