"""What a LayerMap must fulfil, checked by means that LayerMap itself doesn't use."""

from __future__ import annotations

from typing import Callable, Collection, Mapping

import torch
from torch import nn

from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.layers.dry_run import candidate_shapes, detached_copy, dry_run

FEWEST_LAYERS = 3

#: A layer with more than this part of all parameter tensors means that layers weren't found.
COLLAPSED = 0.75


def problems(
    model: nn.Module, head: Collection[str] | None = None, groups: Mapping[str, int] | None = None
) -> tuple[LayerMap, list[str]]:
    """Find the layers of a model and what is wrong with them.

    Args:
        model: The model.
        head: The parameters that make up the head. Defaults to None: not known.
        groups: The depth of parameters as their owner orders them. Defaults to None: not known.

    Returns:
        The layers, and a sentence for each problem.
    """
    layers = LayerMap.from_model(model)
    names = [name for name, _ in model.named_parameters()]
    listed = [name for depth in range(layers.num_layers) for name in layers.names(depth)]
    found = []
    if sorted(listed) != sorted(names):
        found.append(f'{len(names)} parameters, but {len(listed)} in layers')
    sizes = [len(layers.names(depth)) for depth in range(layers.num_layers)]
    if len(sizes) < FEWEST_LAYERS or not all(sizes[:-1]) or max(sizes) > COLLAPSED * len(names):
        found.append(f'the layers hold {sizes} parameters')
    if head is not None and set(layers.names(-1)) != set(head):
        found.append(f'the deepest layer is {layers.modules(-1)}')
    groups = groups or {}
    found += [
        f'timm has {first} before {second}' for first, second in inversions(groups, layers)[:3]
    ]
    return layers, found + out_of_order(model, layers, groups)


def inversions(groups: Mapping[str, int], layers: LayerMap) -> list[tuple[str, str]]:
    """List parameters that the owner orders one way and the layers the other way."""
    deepest, pairs = None, []
    for name in sorted(groups, key=groups.__getitem__):
        depth = layers.depth(name)
        if deepest is not None and groups[name] > groups[deepest] and depth < layers.depth(deepest):
            pairs.append((deepest, name))
        if deepest is None or depth > layers.depth(deepest):
            deepest = name
    return pairs


def out_of_order(model: nn.Module, layers: LayerMap, groups: Mapping[str, int]) -> list[str]:
    """Say which layers start to run after a deeper one, seen by hooks on all modules.

    Modules with a matrix or a kernel count. Where the owner orders two layers so, it decides:
    timm keeps what its matcher doesn't know, as a shared position embedding, with the head.
    """
    trunk = getattr(model, 'backbone', model)
    prefix = 'backbone.' if trunk is not model else ''
    order = module_order(trunk)
    starts: dict[int, int] = {}
    for name, value in model.named_parameters():
        time = order.get(name[len(prefix) :].rpartition('.')[0])
        if name.startswith(prefix) and value.ndim > 1 and time is not None:
            depth = layers.depth(name)
            starts[depth] = min(time, starts.get(depth, time))
    depths = sorted(starts)
    return [
        f'{layers.modules(a)} of depth {a} run after {layers.modules(b)} of depth {b}'
        for a, b in zip(depths, depths[1:])
        if starts[a] > starts[b] and not _ordered(groups, layers.names(a), layers.names(b))
    ]


def _ordered(groups: Mapping[str, int], first: list[str], second: list[str]) -> bool:
    if not all(name in groups for name in (*first, *second)):
        return False
    return max(map(groups.get, first)) < min(map(groups.get, second))


def module_order(network: nn.Module) -> dict[str, int]:
    """Return the order of the first calls of the modules without children, without data.

    Args:
        network: A network that takes a batch of images.

    Returns:
        The number by module name, ``{}`` where the network can't be run.
    """

    def run(copied: nn.Module, inputs: torch.Tensor) -> dict[str, int]:
        order: dict[str, int] = {}
        for name, module in copied.named_modules():
            if not list(module.children()):
                module.register_forward_pre_hook(_recorder(name, order))
        copied(inputs)
        return order

    for attempt in (_on_meta, dry_run):
        try:
            return attempt(network, run)
        except Exception:  # any code may run here, and what isn't known can't be checked
            order = {}
    return order


def _on_meta(network: nn.Module, run: Callable) -> dict[str, int]:
    """Run as :func:`dry_run` does, several times faster: most models can on the meta device."""
    with torch.device('meta'), torch.no_grad():
        return run(detached_copy(network), torch.empty(next(candidate_shapes(network))))


def _recorder(name: str, order: dict[str, int]) -> Callable:
    def record(*_) -> None:
        order.setdefault(name, len(order))

    return record
