import pytest
import torch

from tl_plugin.functional import full_precision


@full_precision
def product(pair, scale=1.0):
    return scale * pair[0] @ pair[1]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_computes_in_float32_inside_autocast(dtype):
    torch.manual_seed(0)
    pair = [torch.randn(8, 8).to(dtype) for _ in range(2)]
    expected = pair[0].float() @ pair[1].float()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        plain = pair[0].float() @ pair[1].float()
        found = product(pair)
    assert plain.dtype == torch.bfloat16  # what it guards against
    assert torch.equal(found, expected)


def test_doubles_stay_doubles_and_gradients_come_back_in_the_type_that_came():
    assert product([torch.eye(2, dtype=torch.double)] * 2).dtype == torch.double
    half = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    product([half, half], scale=2.0).sum().backward()
    assert half.grad.dtype == torch.bfloat16


def test_no_tensor_is_an_error_that_names_the_function():
    with pytest.raises(TypeError, match='product takes tensors, got NoneType, float'):
        product(None, 2.5)
