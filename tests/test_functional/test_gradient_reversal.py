import numpy as np
import pytest
import torch

from tl_plugin.functional import gradient_reversal, sigmoid_ramp


@pytest.mark.parametrize('reversal_weight', [0.0, 0.3, 1.0, torch.tensor(0.3)])
def test_forward_is_identity_and_backward_is_reversed(reversal_weight):
    torch.manual_seed(0)
    x = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    plain = torch.autograd.grad((x**3).sum(), x)[0]

    reversed_ = gradient_reversal(x, reversal_weight)

    assert torch.equal(reversed_, x)
    gradient = torch.autograd.grad((reversed_**3).sum(), x)[0]
    torch.testing.assert_close(gradient, -float(reversal_weight) * plain)


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r'must not be negative, got -0\.1'):
        gradient_reversal(torch.ones(1), -0.1)


def test_half_precision_gradient_keeps_its_type():
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    gradient_reversal(x, torch.tensor(0.5)).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_ramp_is_the_papers_formula():
    progress = np.linspace(0, 1, 21)
    for gamma in (2.0, 10.0):
        expected = 2 / (1 + np.exp(-gamma * progress)) - 1
        found = sigmoid_ramp(torch.tensor(progress), gamma).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)
