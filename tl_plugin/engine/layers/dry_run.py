"""Run a network without data, memory or side effects, to learn shapes and its order of layers."""

from __future__ import annotations

import copy
import itertools
import logging
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tl_plugin.stack.model_wrappers import parameters

# Tried in this order after what the network says of itself.
_IMAGE_SIZES = (224, 256, 384, 299, 32, 28, 64, 128, 448, 512)
_SIZE_ATTRIBUTES = ('img_size', 'image_size', 'input_size', 'input_resolution', 'img_resolution')
_FIRST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def dry_run(module: nn.Module, forward: Callable[[nn.Module, Tensor], Any]) -> Any:
    """Run a forward on a batch of two to learn the shapes of what comes out.

    Nothing is computed: a hollow copy of the module runs. Only a forward that reads values,
    which a hollow tensor lacks, runs for real, in a copy, on zeros. The module stays untouched.

    Args:
        module: A network.
        forward: Takes the copy of the network and the inputs.

    Returns:
        What ``forward`` returns. Read shapes alone from it.

    Raises:
        RuntimeError: If no usual input shape goes through; the last failure is its cause.

    Example:
        >>> conv = nn.Conv2d(3, 8, kernel_size=2, stride=2)
        >>> dry_run(conv, lambda network, inputs: network(inputs)).shape[:2]
        torch.Size([2, 8])
    """
    failure = None
    for run in (_run_hollow, _run_for_real):
        for shape in candidate_shapes(module):
            try:
                return run(module, forward, shape)
            # Any code may run here, and what breaks at one shape may work at the next.
            except Exception as error:
                failure = error
    raise RuntimeError(
        f'no forward of {type(module).__name__} went through in any usual input shape; the last '
        f'one failed with: {failure}'
    ) from failure


def _run_hollow(module: nn.Module, forward: Callable, shape: tuple[int, ...]) -> Any:
    with hollow_copy(module) as hollow:
        return forward(hollow, torch.empty(shape))


def _run_for_real(module: nn.Module, forward: Callable, shape: tuple[int, ...]) -> Any:
    device = next((weight.device for weight in module.parameters()), torch.device('cpu'))
    with torch.random.fork_rng(), torch.no_grad():
        return forward(detached_copy(module), torch.zeros(shape, device=device))


def candidate_shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    """Yield input shapes (2, ...) that a network may take, the likeliest first."""
    first = next((part for part in module.modules() if isinstance(part, _FIRST_LAYERS)), None)
    if isinstance(first, nn.Linear):
        yield (2, first.in_features)
    if isinstance(first, nn.Conv1d):
        yield (2, first.in_channels, 256)
    if isinstance(first, nn.Conv3d):
        yield (2, first.in_channels, 16, 112, 112)
    # What comes before the first convolution may change the channels (timm's csatv2).
    channels = [first.in_channels, 3] if isinstance(first, nn.Conv2d) else [3]
    sizes = [*_declared_sizes(module), *((size, size) for size in _IMAGE_SIZES)]
    for size, channel in itertools.product(dict.fromkeys(sizes), dict.fromkeys(channels)):
        yield (2, channel, *size)


def _declared_sizes(module: nn.Module) -> Iterator[tuple[int, int]]:
    for part in module.modules():
        described = getattr(part, 'default_cfg', None)  # timm
        if isinstance(described, dict):
            yield from _as_size(described.get('input_size'))
        for owner in (part, getattr(part, 'config', None)):  # HuggingFace keeps it in a config
            for name in _SIZE_ATTRIBUTES:
                yield from _as_size(getattr(owner, name, None))


def _as_size(value: Any) -> Iterator[tuple[int, int]]:
    if isinstance(value, int) and not isinstance(value, bool) and value > 1:
        yield value, value
    elif isinstance(value, (tuple, list)) and len(value) in (2, 3):
        height, width = value[-2:]
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 1:
            yield height, width


@contextmanager
def hollow_copy(model: nn.Module) -> Iterator[nn.Module]:
    """Give a copy of a model whose tensors have shapes but no values, in eval mode.

    Inside the context every operation computes shapes alone. The copy shares nothing with the
    model, so weights, running statistics, caches, the train mode, hooks and the random state of
    the model stay as they are whatever the forward pass does.

    Args:
        model: Any module, on any device, also on the meta device.

    Yields:
        The copy, to be called inside the context.

    Example:
        >>> import torch
        >>> with hollow_copy(torch.nn.Linear(3, 5)) as hollow:
        ...     tuple(hollow(torch.empty(2, 3)).shape)
        (2, 5)
    """
    # A private module of torch: imported here so that a torch without it only loses dry runs.
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # deepcopy takes what is in the memo for copies that it has made already, so that it never
    # duplicates the real tensors. Most of its time went to dicts of hooks, which are empty.
    memo = {id(t): _hollow(t, mode) for t in itertools.chain(model.parameters(), model.buffers())}
    for value in (value for module in model.modules() for value in vars(module).values()):
        if type(value) in (dict, OrderedDict) and not value:
            memo[id(value)] = type(value)()
    hollow = detached_copy(model, memo)
    with torch.random.fork_rng(devices=[]), mode, torch.no_grad(), _quiet():
        yield hollow


def detached_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Copy a model for a trial run: in eval mode, without its forward hooks.

    Args:
        model: Any module.
        memo: As in :func:`copy.deepcopy`. Defaults to None.

    Returns:
        The copy.
    """
    copied = copy.deepcopy(model, memo)
    copied.eval()  # returns None where a backbone of mmpretrain overrides `train`
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        # A function put there, as activation checkpointing does, is bound to the original module:
        # the copy would compute with its weights.
        if isinstance(vars(module).get('forward'), types.FunctionType):
            del module.forward
    return copied


def _hollow(tensor: Tensor, mode: Any) -> Tensor:
    """Make a tensor without values; an operation in the mode would take ten times as long."""
    from torch._subclasses.fake_tensor import FakeTensor

    bare = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device='meta')
    hollow = FakeTensor(mode, bare.requires_grad_(tensor.requires_grad), torch.device('cpu'))
    hollow._is_param = isinstance(tensor, nn.Parameter)  # what isinstance() looks at
    return hollow


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the traceback that torch logs where shapes don't fit: sizes are tried in turn."""
    log = logging.getLogger('torch._subclasses.fake_tensor')
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def execution_order(module: nn.Module) -> dict[str, int]:
    """Find when each parameter is first used in a forward pass.

    The module stays untouched: a copy of it runs, without data wherever that is possible.

    Args:
        module: A network that takes one batch of images or of vectors.

    Returns:
        The time of first use by parameter name, ``{}`` where the network can't be run. A
        parameter that the forward pass doesn't use is left out.
    """
    try:
        return dry_run(module, _trace)
    except RuntimeError as error:
        print_log(
            f'{error} Its layers are in the order in which they are registered.',
            logger='current',
            level=logging.DEBUG,
        )
        return {}


def _trace(network: nn.Module, inputs: Tensor) -> dict[str, int]:
    with _FirstUses({id(p): name for name, p in parameters(network).items()}) as uses:
        network(inputs)
    return uses.times


class _FirstUses(TorchFunctionMode):
    """Note the first operation that makes a tensor out of each parameter."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.times: dict[str, int] = {}
        self.clock = itertools.count()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # Reading a shape or a dtype is no use: some stems ask the head for its dtype.
        if any(True for _ in _tensors(result)):
            for tensor in _tensors((args, tuple(kwargs.values()))):
                name = self.names.get(id(tensor))
                if name is not None:
                    self.times.setdefault(name, next(self.clock))
        return result


def _tensors(value) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
