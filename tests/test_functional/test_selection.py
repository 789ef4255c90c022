"""Energy and BADGE against the gradients that they stand for."""

from __future__ import annotations

import pytest
import torch

from tl_plugin.functional import badge_selection, free_energy


def test_energy_is_the_papers():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = -2 * (logits / 2).exp().sum(1).log()
    assert torch.allclose(free_energy(logits, 2.0), expected)


def test_distances_are_those_of_real_gradients():
    """The second choice is drawn by the squared distance of the gradients of the last layer."""
    torch.manual_seed(0)
    features = torch.randn(6, 4)
    layer = torch.nn.Linear(4, 3, bias=False)
    gradients = []
    for row in features:
        layer.zero_grad()
        logits = layer(row)[None]
        torch.nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
        gradients.append(layer.weight.grad.flatten().clone())
    gradients = torch.stack(gradients)
    probabilities = layer(features).softmax(1).detach()
    first = int(gradients.norm(dim=1).argmax())
    distances = (gradients - gradients[first]).square().sum(1)
    distances = torch.minimum(distances, gradients.square().sum(1))
    drawn = torch.zeros(6)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1500):
        chosen = badge_selection(probabilities, features, 2, generator)
        assert chosen[0] == first
        drawn[chosen[1]] += 1 / 1500
    assert torch.allclose(drawn, distances / distances.sum(), atol=0.05)


def test_all_images_are_chosen_once_even_copies():
    probabilities = torch.tensor([[0.6, 0.4]]).repeat(5, 1)
    chosen = badge_selection(probabilities, torch.ones(5, 3), 9)
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]
    assert badge_selection(probabilities[:0], torch.ones(0, 3), 2).tolist() == []


def test_uncertain_images_of_every_kind_come_first():
    features = torch.eye(3).repeat_interleave(20, dim=0) * 5
    probabilities = torch.tensor([0.999, 0.001]).repeat(60, 1)
    unsure = torch.tensor([3, 25, 47])
    probabilities[unsure] = torch.tensor([0.55, 0.45])
    chosen = badge_selection(probabilities, features, 3, torch.Generator().manual_seed(0))
    assert sorted(chosen.tolist()) == unsure.tolist()


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_half_precision_is_widened(dtype):
    chosen = badge_selection(torch.rand(8, 3).to(dtype), torch.rand(8, 4).to(dtype) * 300, 3)
    assert len(chosen) == 3
