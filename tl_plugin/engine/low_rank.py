"""Low-rank adapters in the linear layers and 1x1 convolutions of any model (LoRA)."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from .layers import LayerMap
from .layers.selection import LayerSpec

A, B = 'lora_a', 'lora_b'


class _LowRank:
    """A layer whose weight is its own plus a product of two narrow matrices."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: float

    def low_rank_update(self) -> Tensor:
        """Return what is added to the weight, in its shape."""
        return (self.lora_scale * self.lora_b @ self.lora_a).view(self.weight.shape)

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight + self.low_rank_update()
        if isinstance(self, nn.Linear):
            return F.linear(inputs, weight, self.bias)
        return self._conv_forward(inputs, weight, self.bias)


@functools.cache
def _with_adapter(kind: type) -> type:
    return type(f'LowRank{kind.__name__}', (_LowRank, kind), {'original_class': kind})


def add_adapters(
    model: nn.Module, layers: LayerSpec = ':-1', rank: int = 8, alpha: float = 16.0
) -> list[str]:
    r"""Add adapters to linear layers and 1x1 convolutions, in place.

    Hu et al., "LoRA", ICLR 2022, arXiv 2106.09685: :math:`W + \frac{\alpha}{r} B A` with B zero at
    first, so that the model's output doesn't change. Inside of ``torch.nn.MultiheadAttention``,
    which reads weights without calling the layers that hold them, nothing is adapted, nor in layers
    whose class computes something of its own.

    Args:
        model: The model, without its wrapper.
        layers: Depths, see :class:`LayerMap`. Defaults to all but neck and head.
        rank: Width of A and B; never more than half of the layer's own. Defaults to 8.
        alpha: Weight of the update, divided by the rank. Defaults to 16.

    Returns:
        The names of the modules.

    Raises:
        ValueError: If there is no such layer, or a number is out of its range.
    """
    if rank < 1 or not alpha > 0:
        raise ValueError(f'LoRA: rank must be >= 1 and alpha > 0, got rank={rank}, alpha={alpha}')
    chosen = {*LayerMap.from_model(model).select(layers=layers)}
    unused = LayerMap.training_only(model)
    modules = {name: module for name, module in model.named_modules() if _fits(module)}
    hidden = tuple(
        f'{name}.'
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    )
    found = [
        name
        for name in modules
        if f'{name}.weight' in chosen and not name.startswith((*hidden, *unused))
    ]
    if not found:
        raise ValueError(
            f'LoRA adapts linear layers and 1x1 convolutions, and the layers {layers!r} of this '
            f'{type(model).__name__} have none: use fine_tune, or other layers (model.lora.layers)'
        )
    for name in found:
        _adapt(modules[name], rank, alpha)
    added = sum(modules[name].lora_a.numel() + modules[name].lora_b.numel() for name in found)
    total = sum(modules[name].weight.numel() for name in found)
    print_log(
        f'LoRA: adapters in {len(found)} layers, {added:,} weights beside {total:,}, from '
        f'{found[0]} to {found[-1]}.',
        logger='current',
    )
    return found


def _fits(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        pointwise = module.kernel_size == (1, 1) and module.groups == 1
        return pointwise and _is_plain(module, nn.Conv2d)
    return isinstance(module, nn.Linear) and _is_plain(module, nn.Linear)


def _is_plain(module: nn.Module, kind: type) -> bool:
    """Whether a layer computes what torch's does; mmcv's wrappers only look for empty batches."""
    forward = type(module).forward
    return forward is kind.forward or forward.__module__ == 'mmcv.cnn.bricks.wrappers'


def _adapt(module: nn.Module, rank: int, alpha: float) -> None:
    rows, columns = module.weight.shape[:2]
    rank = max(1, min(rank, min(rows, columns) // 2))
    like = dict(dtype=module.weight.dtype, device=module.weight.device)
    module.lora_a = nn.Parameter(torch.empty(rank, columns, **like))
    module.lora_b = nn.Parameter(torch.zeros(rows, rank, **like))
    nn.init.kaiming_uniform_(module.lora_a, a=math.sqrt(5))
    module.lora_scale = alpha / rank
    module.__class__ = _with_adapter(type(module))


def adapted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _LowRank)}


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Add each adapter to its layer's weight and take it away, in place."""
    for module in adapted_modules(model).values():
        module.weight += module.low_rank_update()
        del module.lora_a, module.lora_b, module.lora_scale
        module.__class__ = module.original_class


def merged_state(model: nn.Module, state: dict[str, Tensor], prefix: str = '') -> None:
    """Turn a ``state_dict`` into that of the network without adapters, in place."""
    for name, module in adapted_modules(model).items():
        key = f'{prefix}{name}.'
        if f'{key}{A}' in state:
            state[f'{key}weight'] = state[f'{key}weight'] + module.low_rank_update().detach()
            del state[f'{key}{A}'], state[f'{key}{B}']


def complete_state(model: nn.Module, state: dict[str, Tensor], prefix: str = '') -> None:
    """Give a ``state_dict`` of the network without adapters some that change nothing, in place."""
    for name, module in adapted_modules(model).items():
        key = f'{prefix}{name}.'
        if f'{key}weight' in state and f'{key}{B}' not in state:
            state[f'{key}{A}'] = module.lora_a.detach().clone()
            state[f'{key}{B}'] = torch.zeros_like(module.lora_b)


def adapter_state(model: nn.Module, whole: bool = False) -> dict[str, Tensor]:
    """Copy the adapters.

    Args:
        model: The model, without its wrapper.
        whole: Also the weights beside which they stand. Defaults to False.
    """
    names = ('weight', A, B) if whole else (A, B)
    return {
        f'{name}.{key}': getattr(module, key).detach().cpu().clone()
        for name, module in adapted_modules(model).items()
        for key in names
    }


@torch.no_grad()
def set_layers(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Set adapted layers to what :func:`adapter_state` returned with ``whole=True``.

    Args:
        model: A copy of the model that it is of.
        state: Name -> weight or adapter.
    """
    for name, module in adapted_modules(model).items():
        for key in ('weight', A, B):
            getattr(module, key).copy_(state[f'{name}.{key}'])


@torch.no_grad()
def load_adapters(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put adapters beside a model's weights.

    Args:
        model: The model that they were trained beside, with adapters of the same ranks.
        state: From :func:`adapter_state`.

    Raises:
        ValueError: If the names or shapes differ.
    """
    own = {
        f'{name}.{key}': getattr(module, key)
        for name, module in adapted_modules(model).items()
        for key in (A, B)
    }
    differing = sorted(
        name
        for name in {*own, *state}
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if differing:
        raise ValueError(
            f'these adapters are of another model, or of another rank: {len(differing)} tensors '
            f'differ in name or shape, {differing[0]} among them; set model.lora as it was trained'
        )
    for name, value in own.items():
        value.copy_(state[name])
