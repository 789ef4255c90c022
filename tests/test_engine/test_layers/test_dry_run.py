import copy

import pytest
import torch
from torch import nn

from tl_plugin.engine.layers.dry_run import dry_run


class Network(nn.Module):
    """Takes 32 px images alone; looks into its data when told to."""

    def __init__(self, looks=False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(3600, 5)
        )
        self.looks = looks

    def forward(self, x):
        if self.looks and x.sum().item() > 1e9:
            return None
        return self.body(x)


@pytest.mark.parametrize('looks', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_tells_the_shape_and_leaves_no_trace(looks, training):
    network = Network(looks).train(training)
    network.body[0].weight.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    random_state = torch.get_rng_state()

    assert tuple(dry_run(network, lambda model, x: model(x)).shape) == (2, 5)

    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(module.training == training for module in network.modules())
    assert not network.body[0].weight.requires_grad
    assert torch.equal(random_state, torch.get_rng_state())


def test_declared_size_comes_first():
    sizes = []
    network = Network()
    network.img_size = 32

    def forward(model, x):
        sizes.append(tuple(x.shape))
        return model(x)

    dry_run(network, forward)
    assert sizes == [(2, 1, 32, 32)]


def test_a_forward_that_never_goes_through_says_why():
    def forward(model, x):
        raise ValueError('no images today')

    with pytest.raises(RuntimeError, match='no images today'):
        dry_run(Network(), forward)
