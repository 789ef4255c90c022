"""Records the calls of fixed modules in one forward pass, and replays the pass without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .moving import fixed_modules


class Call(NamedTuple):
    """One call of a module.

    Args:
        name: Of the module.
        leaves: What it put out, flat: tensors, and whatever else.
        spec: How these make up the output.
    """

    name: str
    leaves: list
    spec: TreeSpec

    def tensors(self) -> list[Tensor]:
        """The tensors among the leaves."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]


@contextmanager
def recorded_calls(model: nn.Module) -> Iterator[list[Call]]:
    """Notes the outermost calls of fixed modules on which nothing trained has an influence.

    Args:
        model: The model, in the modes of training.

    Yields:
        The calls, in the order in which they end; filled by forward passes in the context.
    """
    calls: list[Call] = []
    depth = [0]

    def enter(module: nn.Module, inputs: tuple) -> None:
        depth[0] += 1

    def leave(name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        depth[0] -= 1
        leaves, spec = tree_flatten(output)
        if not depth[0] and not any(isinstance(v, Tensor) and v.requires_grad for v in leaves):
            calls.append(Call(name, leaves, spec))

    handles = []
    for name, module in fixed_modules(model):
        if name.split('.')[0] != 'data_preprocessor':
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(_with_name(leave, name)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _with_name(function: Callable, name: str) -> Callable:
    return lambda module, inputs, output: function(name, module, inputs, output)


class Stub:
    """Stands in for the output of a call that is left out: of its form, and poisoned.

    NaN in every float: whatever depends on it shows.

    Args:
        small: The call with a batch of ``sizes[0]``.
        large: The same call with a batch of ``sizes[1]``.
        sizes: The two batch sizes.

    Raises:
        ValueError: If the two differ in more than the extent of tensors.
    """

    def __init__(self, small: Call, large: Call, sizes: tuple[int, int]) -> None:
        if small.name != large.name or small.spec != large.spec:
            raise ValueError(f'{large.name} does not run alike in batches of {sizes} images')
        self.spec = large.spec
        self.leaves = [_leaf(*pair, sizes) for pair in zip(small.leaves, large.leaves)]

    def output(self, size: int) -> Any:
        """The output for a batch of ``size`` images; takes no memory."""
        return tree_unflatten([leaf(size) for leaf in self.leaves], self.spec)


def _leaf(small: Any, large: Any, sizes: tuple[int, int]) -> Callable[[int], Any]:
    if not isinstance(large, Tensor):
        if small != large:
            raise ValueError(f'an output is {small} for {sizes[0]} images, {large} for {sizes[1]}')
        return lambda size: large
    grown = [one - other for one, other in zip(large.shape, small.shape)]
    step = sizes[1] - sizes[0]
    if small.dim() != large.dim() or any(extent % step for extent in grown):
        raise ValueError(f'an output is {tuple(small.shape)}, then {tuple(large.shape)}')
    shape, dtype, device = tuple(large.shape), large.dtype, large.device
    poison = float('nan') if dtype.is_floating_point or dtype.is_complex else 0
    one = torch.full((), poison, dtype=dtype, device=device)

    def make(size: int) -> Tensor:
        return one.expand(
            *(e + (size - sizes[1]) * (more // step) for e, more in zip(shape, grown))
        )

    return make


@contextmanager
def replayed(
    modules: Sequence[nn.Module], outputs: Sequence[Any], preprocessor: nn.Module
) -> Iterator[None]:
    """Lets the first calls of some modules put out what is given, without running them.

    Args:
        modules: The module of each call, in order; one that is called several times, several times.
        outputs: What each call puts out.
        preprocessor: The model's data preprocessor, which gives batches as they are.

    Raises:
        RuntimeError: If a forward pass in the context did not make all of these calls.
    """
    waiting: dict[nn.Module, list] = defaultdict(list)
    for module, output in zip(reversed(modules), reversed(outputs)):
        waiting[module].append(output)
    forwards = {module: _given(module.forward, values) for module, values in waiting.items()}
    forwards[preprocessor] = _as_it_is
    before = [(vars(module), vars(module).get('forward')) for module in forwards]
    for module, forward in forwards.items():
        vars(module)['forward'] = forward
    try:
        yield
    finally:
        for attributes, forward in before:
            if forward is None:
                del attributes['forward']
            else:
                attributes['forward'] = forward
    for module, values in waiting.items():
        if values:
            raise RuntimeError(
                f'{type(module).__name__} was called {len(values)} times less than before: the '
                'forward pass is not the one for which features were cached'
            )


def _given(forward: Callable, values: list) -> Callable:
    def give(*args: Any, **kwargs: Any) -> Any:
        return values.pop() if values else forward(*args, **kwargs)

    return give


def _as_it_is(data: dict, training: bool = False) -> dict:
    return dict(data)
