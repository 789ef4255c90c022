"""A GPU without a GPU: tensors that say they are on ``cuda`` and compute on the CPU.

Whole runs train on it with real values. Mixing devices raises, as on a real GPU; in a training
step so does everything that waits for the GPU (a value that is read back, a shape that depends on
values, a copy to the CPU), and, always, a decomposition in half precision. Gradients are computed
node by node with the checks of autograd's engine, which itself needs a driver.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import mmengine.optim.optimizer.amp_optimizer_wrapper as amp_wrapper
import mmengine.runner.amp as amp
import mmengine.runner.runner as runner_module
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, Registry
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device('cuda', 0)
HALF = (torch.float16, torch.bfloat16)
#: Parts of the names of operations that have no half-precision kernel, or lose their digits in it.
FULL_PRECISION_ONLY = ('svd', 'eig', 'cholesky', 'linalg_qr', 'inv', 'linalg_solve', 'lstsq')
#: Operations whose result the CPU waits for, beside copies and indices by value.
WAITING = ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'equal', 'bincount')
#: Operations that take tensors of two devices.
MIXING = ('_to_copy', 'copy_', '_copy_from', 'index', 'index_put', 'index_put_', '_index_put_impl_')


#: Hooks that read values back around a step on purpose: every loss, and, in intervals, what they
#: label, estimate or save.
READING = (
    *('FiniteLossHook', 'CentroidPseudoLabelHook', 'AdversaryMonitorHook', 'AdaBNHook'),
    'AtomicCheckpointHook',
)


class HostSync(RuntimeError):
    """The CPU waits for the simulated GPU in a training step."""


class HalfPrecision(RuntimeError):
    """An operation that needs float32 got a half-precision tensor."""


class MixedDevices(RuntimeError):
    """An operation got tensors of the CPU and of the simulated GPU."""


class OnGPU(Tensor):
    """A tensor on the simulated GPU; ``value`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor) -> OnGPU:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=GPU,
        )
        tensor.value = value
        return tensor

    def __repr__(self) -> str:
        return f'OnGPU({self.value!r})'

    def tolist(self) -> Any:
        """Copy to the CPU first, as torch refuses this for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Placement(TorchDispatchMode):
    """Puts what is made for ``cuda`` on the simulated GPU, and watches over training steps."""

    in_step = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.in_step:
            tensors = list(_tensors((args, kwargs)))
            if any(isinstance(tensor, OnGPU) for tensor in tensors):
                _refuse_waiting(func, tensors, kwargs)
        return _run(func, args, kwargs)


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Compute on the values, and put the result where a GPU's driver would."""
    name = func.overloadpacket.__name__
    tensors = list(_tensors((args, kwargs)))
    if any(part in name for part in FULL_PRECISION_ONLY) and any(t.dtype in HALF for t in tensors):
        raise HalfPrecision(f'{name} got a half-precision tensor')
    here = [isinstance(tensor, OnGPU) for tensor in tensors]
    if any(here) and name not in MIXING:
        foreign = [t for t, gpu in zip(tensors, here) if not gpu and (t.dim() or t is args[0])]
        if foreign:
            raise MixedDevices(f'{name} got tensors on cpu and cuda')
    device = kwargs.get('device')
    on_gpu = any(here) if device is None else torch.device(device).type == 'cuda'
    if name in ('copy_', 'index', 'index_put', 'index_put_'):
        on_gpu = here[0]
    if device is not None:
        kwargs = {**kwargs, 'device': torch.device('cpu')}
    found = _compute(func, name, _map(_value, args), _map(_value, kwargs))
    known = {id(_value(tensor)): tensor for tensor in tensors}

    def place(result: Any) -> Any:
        if not isinstance(result, Tensor) or isinstance(result, OnGPU):
            return result
        same = known.get(id(result))
        if same is not None and isinstance(same, OnGPU) == on_gpu:
            return same  # in place
        return OnGPU(result) if on_gpu else result

    return _map(place, found)


def _compute(func: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """Call an operation; a softmax from half precision to float32 has a kernel on GPUs alone."""
    if name in ('_softmax', '_log_softmax') and args[2]:
        return func(args[0].float(), args[1], False)
    if name in ('_softmax_backward_data', '_log_softmax_backward_data'):
        return func(*args[:3], args[0].dtype).to(args[3])
    return func(*args, **kwargs)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield what torch's own functions do, faster: arguments are nested in lists alone."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(item)


def _map(function: Callable, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, item) for name, item in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)([_map(function, item) for item in tree])
    return function(tree)


def _value(tensor: Any) -> Any:
    return tensor.value if isinstance(tensor, OnGPU) else tensor


def _refuse_waiting(func: Any, tensors: Sequence[Tensor], kwargs: dict) -> None:
    name = func.overloadpacket.__name__
    by_value = any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
    if name.startswith(WAITING) or (name == 'index' and by_value):
        raise HostSync(f'{name} waits for the GPU')
    to_cpu = 'device' in kwargs and torch.device(kwargs['device']).type == 'cpu'
    if to_cpu or (name == 'copy_' and not isinstance(tensors[0], OnGPU)):
        raise HostSync(f'{name} copies from the GPU to the CPU')


def replace_tensors(module: nn.Module, fn: Callable, recurse: bool = True) -> nn.Module:
    """Stand in for ``nn.Module._apply``, which cannot exchange a parameter's storage here."""
    if recurse:
        for child in module.children():
            child._apply(fn)
    for name, value in module._parameters.items():
        if value is not None and (moved := fn(value.detach())).device != value.device:
            module._parameters[name] = nn.Parameter(moved, value.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = fn(value)
    return module


@contextmanager
def simulated_gpu() -> Iterator[_Placement]:
    """Make ``cuda`` usable inside, also by mmengine's runner and by mixed precision."""
    torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does
    placement = _Placement()
    lift = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, '_apply', replace_tensors)
        patch.setattr(torch.cuda, '_lazy_init', lambda: None)
        patch.setattr(torch.cuda, 'is_bf16_supported', lambda *_, **__: True)
        patch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
        patch.setattr(Tensor, 'backward', _backward)
        patch.setattr(torch.autograd, 'grad', _grad)
        patch.setattr(torch, 'load', functools.partial(_load, torch.load))
        for module in (amp, runner_module):
            patch.setattr(module, 'get_device', lambda: 'cuda')
        patch.setattr(amp_wrapper, 'is_cuda_available', lambda: True)
        with (
            torch.backends.cudnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
            placement,
        ):
            try:
                torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(data, device='cuda')
                yield placement
            finally:
                torch._C._set_only_lift_cpu_tensors(lift)


def _load(load: Callable, *args: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """Load to the CPU what goes to the GPU, then move it: reading a file needs a driver."""
    on_gpu = isinstance(map_location, (str, torch.device)) and 'cuda' in str(map_location)
    found = load(*args, map_location='cpu' if on_gpu else map_location, **kwargs)
    return _on_gpu(found) if on_gpu else found


def _on_gpu(content: Any) -> Any:
    """Move all tensors in the containers of a checkpoint, which stay of their own type."""
    if isinstance(content, Tensor):
        return OnGPU(content)
    if isinstance(content, dict):
        for name, item in content.items():
            content[name] = _on_gpu(item)
        return content
    if type(content) in (list, tuple):
        return type(content)([_on_gpu(item) for item in content])
    return content


def to_gpu(model: nn.Module) -> nn.Module:
    """Move a model to the simulated GPU and check that nothing stays behind."""
    model.to('cuda')
    check_placed(model)
    return model


def check_placed(model: nn.Module) -> None:
    """Raise an AssertionError for a parameter or buffer that isn't on the simulated GPU."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.is_cuda, f'{name} stays on {value.device} after .to("cuda")'


def _backward(self: Tensor, gradient: Tensor | None = None, **kwargs: Any) -> None:
    _differentiate([self], [gradient], kwargs.get('create_graph', False))


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple:
    outputs, inputs = (
        [each] if isinstance(each, Tensor) else list(each) for each in (outputs, inputs)
    )
    given = [None] * len(outputs) if grad_outputs is None else list(grad_outputs)
    edges = [get_gradient_edge(value) for value in inputs]
    caught = _differentiate(outputs, given, create_graph, [tuple(edge)[:2] for edge in edges])
    if not allow_unused and None in [caught.get(tuple(edge)[:2]) for edge in edges]:
        raise RuntimeError('One of the differentiated Tensors appears to not have been used')
    return tuple(caught.get(tuple(edge)[:2]) for edge in edges)


def _differentiate(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    create_graph: bool,
    caught: Sequence[tuple] | None = None,
) -> dict:
    """Do as autograd's engine: add up gradients in the leaves, or catch them at some edges."""
    sums: dict[Any, dict[int, Tensor]] = {}
    found: dict = {}
    with torch.set_grad_enabled(create_graph):
        for output, gradient in zip(outputs, gradients):
            node, number = tuple(get_gradient_edge(output))[:2]
            start = torch.ones_like(output) if gradient is None else gradient
            _add(sums, node, number, start)
        waiting = _count_uses(sums)
        ready = [node for node in sums if not waiting[node]]
        while ready:
            node = ready.pop()
            own = sums.pop(node, {})
            found.update(((node, n), g) for n, g in own.items() if (node, n) in (caught or ()))
            if hasattr(node, 'variable'):
                if caught is None and own:
                    _accumulate(node.variable, own[0])
                continue
            given = [own.get(number) for number in range(len(node._input_metadata))]
            results = _call(node, given) if own else [None] * len(node.next_functions)
            for (following, number), result in zip(node.next_functions, results):
                if following is None:
                    continue
                if result is not None:
                    _add(sums, following, number, result)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)
    return found


def _count_uses(roots: Sequence) -> Counter:
    """Count from how many edges each node gets its gradients."""
    uses, seen, stack = Counter(), set(roots), list(roots)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                uses[following] += 1
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
    return uses


def _call(node: Any, gradients: list) -> list:
    """Compute the gradients of a node's inputs."""
    call = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
    results = call(*gradients)
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _add(sums: dict, node: Any, number: int, gradient: Tensor) -> None:
    """Check a gradient as the engine does, and add it to those of a node."""
    expected = node._input_metadata[number]
    if gradient.device != expected.device and gradient.dim():
        raise MixedDevices(
            f'{node.name()} expects a gradient on {expected.device}, got {gradient.device}'
        )
    gradient = gradient.to(device=expected.device, dtype=expected.dtype)
    if gradient.shape != expected.shape:
        gradient = gradient.sum_to_size(expected.shape)
    own = sums.setdefault(node, {})
    own[number] = own[number] + gradient if number in own else gradient


def _accumulate(value: Tensor, gradient: Tensor) -> None:
    assert gradient.device == value.device and gradient.dtype == value.dtype
    value.grad = gradient.clone() if value.grad is None else value.grad + gradient


@OPTIM_WRAPPERS.register_module()
class EachPrecisionOptimWrapper(AmpOptimWrapper):
    """Takes steps in float32, float16 and bfloat16 in turn, with a gradient scaler."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        dtype = (torch.float32, *HALF)[self._inner_count % 3]
        with super().optim_context(model), torch.autocast('cuda', dtype, dtype in HALF):
            yield


@contextmanager
def watched_steps(placement: _Placement) -> Iterator[Counter]:
    """Refuse waits for the GPU in training steps and in the package's hooks around them.

    What reads values back on purpose is let through: mmengine's logging, also that of the norm of
    a gradient that it clips, torch's gradient scaler and the hooks in :data:`READING`.

    Yields:
        How many steps each model class has taken.
    """
    steps = Counter()
    call_hook, scaler = Runner.call_hook, torch.amp.GradScaler
    train_step = BaseModel.train_step

    @contextmanager
    def watching(active: bool) -> Iterator[None]:
        with mock.patch.object(placement, 'in_step', active):
            yield

    def step(model: Any, *args: Any, **kwargs: Any) -> Any:
        check_placed(model)
        if getattr(model, 'dsbn', None) is not None:
            model.dsbn.start(model)  # reads a flag, once a run
        steps[type(model).__name__] += 1
        with watching(True):
            return train_step(model, *args, **kwargs)

    def hooks(runner: Runner, fn_name: str, **kwargs: Any) -> None:
        if fn_name not in ('before_train_iter', 'after_train_iter'):
            return call_hook(runner, fn_name, **kwargs)
        for hook in runner.hooks:
            ours = type(hook).__module__.startswith('tl_plugin')
            with watching(ours and type(hook).__name__ not in READING):
                getattr(hook, fn_name)(runner, **kwargs)

    def unwatched(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            with watching(False):
                return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseModel, 'train_step', step)
        patch.setattr(Runner, 'call_hook', hooks)
        patch.setattr(scaler, '_maybe_opt_step', unwatched(scaler._maybe_opt_step))
        patch.setattr(OptimWrapper, '_clip_grad', unwatched(OptimWrapper._clip_grad))
        yield steps


#: Names of the components that runs on the simulated GPU were built of.
BUILT: set[str] = set()


@contextmanager
def recorded() -> Iterator[None]:
    """Add what is built inside to :data:`BUILT`."""
    build = Registry.build

    def record(registry: Registry, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        found = build(registry, cfg, *args, **kwargs)
        kind = cfg.get('type', '')
        name = kind if isinstance(kind, str) else kind.__name__
        BUILT.update({name.rpartition('.')[2], type(found).__name__})
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, 'build', record)
        yield


def run_on_gpu(cfg: Config, then: Callable[[Runner], Any] = lambda runner: None) -> Runner:
    """Train on the simulated GPU; afterwards all of the model must be there.

    Args:
        cfg: A config that hasn't run yet.
        then: Called with the runner that has trained, still on the simulated GPU.
    """
    vars(cfg).update(_format_python_code=False)  # formatting takes longer than training here
    with simulated_gpu() as placement, watched_steps(placement), recorded():
        runner = Runner.from_cfg(cfg)
        runner.train()
        check_placed(runner.model)
        then(runner)
    return runner


def values(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the numbers of a ``state_dict`` on the simulated GPU."""
    return {name: _value(tensor) for name, tensor in state.items()}
