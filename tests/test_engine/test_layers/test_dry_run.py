import copy

import pytest
import torch
from torch import nn

from tl_plugin.engine.layers.dry_run import detached_copy, dry_run, hollow_copy


class Network(nn.Module):
    """Takes 32 px images alone; looks into its data where `looks` is set."""

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


class Caching(nn.Module):
    """Changes itself, its buffers and the random state in its forward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.linear.weight = nn.Parameter(torch.rand(3, 3))
        self.tied = self.linear.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer('count', torch.zeros(()))
        self.cache = {}

    def forward(self, x):
        self.count += 1
        self.cache['x'] = x
        return self.norm(self.linear(x) @ self.tied) + torch.rand(3)


def test_the_original_stays_as_it_is():
    model = Caching().train()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with hollow_copy(model) as hollow:
        assert tuple(hollow(torch.empty(5, 3)).shape) == (5, 3)
        assert hollow.tied is hollow.linear.weight
        assert not hollow.training
    assert model.cache == {}
    assert seen == []
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_memory_runs_too():
    with torch.device('meta'):
        model = Caching()
    with hollow_copy(model) as hollow:
        assert hollow(torch.empty(2, 3)).device.type == 'cpu'


def test_a_detached_copy_has_its_values_but_not_its_hooks():
    model = Caching()
    model.linear.register_forward_pre_hook(lambda *_: 1 / 0)
    copied = detached_copy(model)
    copied(torch.rand(2, 3))
    assert torch.equal(copied.linear.weight, model.linear.weight)
    assert copied.linear.weight is not model.linear.weight


def test_a_detached_copy_of_a_recomputing_module_computes_with_its_own_weights():
    inner = torch.nn.Linear(2, 2)
    original = inner.forward
    inner.forward = lambda inputs: original(inputs)  # as mmengine's activation checkpointing does
    copied = detached_copy(torch.nn.Sequential(inner))
    expected = copied(torch.ones(1, 2))
    torch.nn.init.zeros_(inner.weight)
    assert torch.equal(copied(torch.ones(1, 2)), expected)
