import numpy as np
import pytest
import torch
from torch import nn

from tests.distributed import run_distributed
from tl_plugin.engine.batch_statistics import estimate_batch_statistics


def _network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
        nn.BatchNorm1d(5),
    )


def _batches():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 6, 6, generator=random) * 3 + 2 for size in (4, 4, 2)]


def _normalised(values, layer):
    """By the batch's own statistics, in numpy."""
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    shape = [1, -1] + [1] * (values.ndim - 2)
    mean, variance = values.mean(axes, keepdims=True), values.var(axes, keepdims=True)
    weight, bias = (p.detach().double().numpy().reshape(shape) for p in layer.parameters())
    return (values - mean) / np.sqrt(variance + layer.eps) * weight + bias


def _reference(network, batches):
    """Pooled over all values that came through, an image like any other."""
    first, second = [], []
    network = network.double()
    for batch in batches:
        values = network[0](batch.double()).detach().numpy()
        first.append(values.transpose(1, 0, 2, 3).reshape(4, -1))
        hidden = np.maximum(_normalised(values, network[1]), 0)
        flat = torch.from_numpy(hidden).flatten(1)
        second.append(network[5](flat).detach().numpy().T)
    pooled = [np.concatenate(seen, axis=1) for seen in (first, second)]
    return [(seen.mean(axis=1), seen.var(axis=1, ddof=1)) for seen in pooled]


def _check(network, expected):
    for layer, (mean, variance) in zip((network[1], network[6]), expected):
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.running_var.numpy(), variance, rtol=1e-5)


def test_statistics_are_those_of_numpy():
    network = _network()
    network[6].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert estimate_batch_statistics(network, _batches(), network) == 2
    _check(network, _reference(_network(), _batches()))
    for key, value in network.state_dict().items():
        assert 'running' in key or torch.equal(value, before[key])
    assert network.training and not network[6].training
    assert network[1].momentum == 0.1 and not network[1]._forward_pre_hooks


def test_a_second_time_gives_the_same():
    network = _network()
    estimate_batch_statistics(network, _batches(), network)
    first = network[6].running_var.clone()
    estimate_batch_statistics(network, _batches(), network)
    assert torch.equal(network[6].running_var, first)


def _on_rank(rank_batches):
    network = _network()
    batches = rank_batches[torch.distributed.get_rank()]
    estimate_batch_statistics(network, batches, network)
    return network


def test_two_processes_pool_what_they_see():
    batches = _batches()
    networks = run_distributed(_on_rank, [batches[:1], batches[1:]])
    for network in networks:
        _check(network, _reference(_network(), batches))


def test_nothing_to_adapt_or_nothing_to_see():
    with pytest.raises(ValueError, match='no batch norm with running statistics'):
        estimate_batch_statistics(nn.Linear(2, 2), [], None)
    with pytest.raises(ValueError, match='no batch of target images came through the norm layers'):
        estimate_batch_statistics(_network(), [], None)


def test_a_layer_that_no_image_comes_through_stays():
    network = _network()
    network.unused = nn.BatchNorm1d(2)
    batches = _batches()
    assert estimate_batch_statistics(network, batches, lambda x: network[:7](x)) == 2
    assert torch.equal(network.unused.running_mean, torch.zeros(2))
