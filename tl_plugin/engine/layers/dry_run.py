from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .hollow import detached_copy, hollow_copy

# Tried in this order after what the network says of itself.
_IMAGE_SIZES = (224, 256, 384, 299, 32, 28, 64, 128, 448, 512)
_SIZE_ATTRIBUTES = ('img_size', 'image_size', 'input_size', 'input_resolution', 'img_resolution')
_FIRST_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def dry_run(module: nn.Module, forward: Callable[[nn.Module, Tensor], Any]) -> Any:
    """Run a forward on a batch of two to learn the shapes of what comes out.

    Nothing is computed: a hollow copy of the module runs. Only a forward that looks into its data,
    which a hollow tensor hasn't, runs for real, in a copy, on zeros. The module stays untouched.

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
    """Input shapes (2, ...) that a network may take, the likeliest first."""
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
