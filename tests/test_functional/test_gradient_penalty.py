import numpy as np
import torch
from torch import nn

from tl_plugin.functional import input_gradient_penalty


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()


def test_value_is_that_of_the_gradient_by_hand():
    network, inputs = _network(), torch.randn(5, 4, dtype=torch.double)
    weights = [part.detach().numpy() for part in network.parameters()]
    active = inputs.numpy() @ weights[0].T + weights[1] > 0
    gradients = [weights[2][0] * row @ weights[0] for row in active]
    expected = np.mean([np.sum(gradient**2) for gradient in gradients])
    np.testing.assert_allclose(input_gradient_penalty(network, inputs).item(), expected)


def test_the_network_alone_gets_a_gradient():
    network = _network()
    inputs = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    input_gradient_penalty(network, inputs).backward()
    assert inputs.grad is None
    assert network[0].weight.grad.abs().sum() > 0
    epsilon, weight = 1e-6, network[2].weight
    before = input_gradient_penalty(network, inputs).item()
    with torch.no_grad():
        weight[0, 3] += epsilon
    slope = (input_gradient_penalty(network, inputs).item() - before) / epsilon
    np.testing.assert_allclose(weight.grad[0, 3], slope, rtol=1e-4, atol=1e-8)


def test_works_where_gradients_are_off():
    with torch.no_grad():
        assert input_gradient_penalty(_network(), torch.randn(3, 4, dtype=torch.double)) > 0
