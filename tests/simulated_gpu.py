"""A GPU without a GPU: tensors on a fake ``cuda`` device, which have a shape but no values.

Mixing devices raises there, as on a real GPU, and so does everything that waits for the GPU: a
value that is read back (``.item()``, ``bool(tensor)``), a shape that depends on values, a copy to
the CPU.
Backward needs a driver and isn't simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Parts of the names of operations that have no half-precision kernel, or lose their digits in it.
FULL_PRECISION_ONLY = ('svd', 'eigh', 'cholesky', 'linalg_qr', 'linalg_inv', 'linalg_solve')
HALF = (torch.float16, torch.bfloat16)


class HostSync(RuntimeError):
    """A value was copied from the simulated GPU to the CPU."""


class HalfPrecision(RuntimeError):
    """An operation that needs float32 got a half-precision tensor."""


class Watch(TorchDispatchMode):
    """Raise on copies to the CPU and on half-precision decompositions."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(part in func.__name__ for part in FULL_PRECISION_ONLY) and any(
            tensor.dtype in HALF for tensor in tensors
        ):
            raise HalfPrecision(f'{func.__name__} got a half-precision tensor')
        outputs = func(*args, **kwargs)
        if '_to_copy' in func.__name__ and tensors[0].is_cuda and not outputs.is_cuda:
            raise HostSync(f'{func.__name__} copies from the GPU to the CPU')
        devices = [tensor.device.type for tensor in tensors]
        if func.__name__.startswith('copy_') and devices == ['cpu', 'cuda']:
            raise HostSync(f'{func.__name__} copies from the GPU to the CPU')
        return outputs


def replace_tensors(module: nn.Module, fn: Callable, recurse: bool = True) -> nn.Module:
    """Stand in for ``nn.Module._apply``, which cannot turn real parameters into fake ones."""
    if recurse:
        for child in module.children():
            child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(fn(value.detach()), value.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = fn(value)
    return module


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """Make ``cuda`` usable inside, for tensors without values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, '_apply', replace_tensors)
        with FakeTensorMode(allow_non_fake_inputs=True), Watch():
            yield


@contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Switch automatic mixed precision on, which ``torch.autocast`` refuses without a GPU.

    Args:
        dtype: Half-precision type to compute in, or None for float32 throughout.
    """
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    try:
        torch.set_autocast_enabled('cuda', dtype is not None)
        torch.set_autocast_dtype('cuda', dtype or before[1])
        yield
    finally:
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])
        torch.clear_autocast_cache()


def to_gpu(model: nn.Module) -> nn.Module:
    """Move a model to the simulated GPU and check that nothing stays behind."""
    model.to('cuda')
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.is_cuda, f'{name} stays on {value.device} after .to("cuda")'
    return model


class StepTaken(Exception):
    """Ends a run once its first step has been simulated."""


def simulate_step(runner: Any) -> None:
    """Train up to the first step for real, and take its forward pass on the simulated GPU.

    The pass is taken in float32 and under automatic mixed precision in float16 and bfloat16, each
    time followed by the package's hooks.

    Args:
        runner: A runner that hasn't trained yet; afterwards its model has no values.
    """
    hooks = [hook for hook in runner.hooks if type(hook).__module__.startswith('tl_plugin')]

    def train_step(model: nn.Module, data: Any, optim_wrapper: Any) -> None:
        if getattr(model, 'dsbn', None) is not None:
            model.dsbn.start(model)  # reads a flag, once a run
        with simulated_gpu():
            to_gpu(model)
            regularizers = getattr(model, 'regularizers', None)
            if regularizers:  # the source model was copied before the model was on the GPU
                regularizers.remember(model, regularizers.source_state())
            for dtype in (None, *HALF):
                with autocast(dtype):
                    batch = model.data_preprocessor(data, True)
                    losses = model._run_forward(batch, mode='loss')
                loss, logged = model.parse_losses(losses)
                assert loss.is_cuda and loss.requires_grad
                for hook in hooks:
                    hook.before_train_iter(runner, 0, data)
                    hook.after_train_iter(runner, 0, data, logged)
        raise StepTaken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(runner.model), 'train_step', train_step)
        with pytest.raises(StepTaken):
            runner.train()
