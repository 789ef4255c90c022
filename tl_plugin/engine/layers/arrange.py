"""Put the parameters of any model into layers, shallow to deep."""

from __future__ import annotations

import bisect
from typing import AbstractSet, Collection, List, Mapping, NamedTuple, Sequence

from torch import nn

from tl_plugin.stack.model_wrappers import children, matrix_ids, parameters, unwrap

from .blocks import split_into_units
from .execution import execution_order
from .owners import KNOWS_LAYERS, Answer, ask_mmpretrain, ask_timm, classifier_names, rates_behind

Layers = List[List[str]]


class Arrangement(NamedTuple):
    """A model's parameters in layers.

    Attributes:
        layers: Those of the backbone, shallow to deep.
        head: All that isn't backbone.
        above: Parameter -> how many layers its learning rate has above it, where the network's
            owner says so. It can differ from the layers here: the owner may put a backbone's final
            norm with the head, or leave layers out that a small variant of a network lacks.
    """

    layers: Layers
    head: list[str]
    above: dict[str, int]


def arrange(model: nn.Module) -> Arrangement:
    """Arrange a model's parameters in layers.

    Args:
        model: Any model.

    Returns:
        Its layers. A model without a child named ``backbone`` is its own backbone up to its
        classifier.
    """
    matrices = matrix_ids(model)  # before unwrapping: FSDP alone knows the shapes of its shards
    model = unwrap(model)
    prefix, holder = _see_through(model)
    backbone = dict(children(holder)).get('backbone')
    if backbone is None:
        layers, head, above = _arrange_whole(holder, matrices)
        return Arrangement(
            _prefixed(layers, prefix),
            [prefix + name for name in head],
            {prefix + name: count for name, count in above.items()},
        )
    trunk = f'{prefix}backbone.'
    inner, core = _see_through(backbone)
    by_holder = ask_mmpretrain(holder, parameters(core), f'backbone.{inner}')
    answer = by_holder or _ask(core)
    head = [name for name in parameters(model) if not name.startswith(trunk)]
    counts = answer.above if answer else {}
    above = {trunk + inner + name: count for name, count in counts.items()}
    if by_holder:
        behind = rates_behind(holder, [name.removeprefix(prefix) for name in head])
        above.update({prefix + name: count for name, count in behind.items()})
    return Arrangement(_prefixed(_arrange_core(core, answer, matrices), trunk + inner), head, above)


def _arrange_whole(core: nn.Module, matrices: Collection[int]) -> Arrangement:
    """Arrange a network that has no backbone: its classifier, or its last layer, is the head."""
    head = classifier_names(core)
    answer = _ask(core)
    layers = _arrange_core(core, answer, matrices, without=head)
    if not head and layers:
        return Arrangement(layers[:-1], layers[-1], {})
    return Arrangement(
        layers, [name for name in parameters(core) if name in head], answer.above if answer else {}
    )


def _arrange_core(
    core: nn.Module, answer: Answer | None, matrices: Collection[int], without: Collection[str] = ()
) -> Layers:
    layers = _by_depth(core, answer.depths, matrices) if answer else _by_execution(core, matrices)
    layers = [[name for name in layer if name not in without] for layer in layers]
    heavy = {name for name, value in parameters(core).items() if id(value) in matrices}
    return _join_vectors([layer for layer in layers if layer], heavy)


def _ask(core: nn.Module) -> Answer | None:
    names = parameters(core)
    return ask_mmpretrain(core, names) or ask_timm(core, names)


def _prefixed(layers: Layers, prefix: str) -> Layers:
    return [[prefix + name for name in layer] for layer in layers]


def _see_through(module: nn.Module) -> tuple[str, nn.Module]:
    """Go down from a class that only holds a network, as TIMMBackbone does, to that network.

    Args:
        module: Any module.

    Returns:
        The way down, and the module that knows its layers or has a backbone; ``module`` itself
        where there's none.
    """
    prefix, inner = '', module
    while not any(hasattr(inner, word) for word in ('backbone', *KNOWS_LAYERS)):
        nested = list(children(inner))
        if len(nested) != 1 or next(inner.parameters(recurse=False), None) is not None:
            return '', module
        ((name, inner),) = nested
        prefix += f'{name}.'
    return prefix, inner


def _by_depth(
    core: nn.Module, depths: Mapping[str, int | None], matrices: Collection[int]
) -> Layers:
    """Group by the owner's depths; what it doesn't place follows what runs before it."""
    if None in depths.values():
        depths = _place_rest(depths, _times(core, matrices))
    layers: dict[int, list[str]] = {}
    for name, depth in depths.items():
        layers.setdefault(depth, []).append(name)
    return [layers[depth] for depth in sorted(layers)]


def _place_rest(depths: Mapping[str, int | None], times: Mapping[str, int]) -> dict[str, int]:
    placed = [depth for depth in depths.values() if depth is not None]
    current = min(placed, default=0)
    result = dict(depths)
    for name in _in_order(list(depths), times):
        current = current if depths[name] is None else depths[name]
        result[name] = current
    return result


def _times(core: nn.Module, matrices: Collection[int]) -> dict[str, int]:
    """Find when parameters are first used; never under FSDP, whose flat shards can't be run."""
    sharded = any(value.ndim < 2 and id(value) in matrices for value in core.parameters())
    return {} if sharded else execution_order(core)


def _in_order(names: Sequence[str], times: Mapping[str, int]) -> list[str]:
    """Sort by time of use; what isn't used stays behind what is registered before it."""
    keys, last = {}, -1
    for name in names:
        last = keys[name] = times.get(name, last)
    return sorted(names, key=keys.__getitem__)


def _by_execution(core: nn.Module, matrices: Collection[int]) -> Layers:
    """Cut into units and sort them by the time at which they first run."""
    pieces, times = split_into_units(core, matrices), _times(core, matrices)
    units, starts = [], []
    for unit in pieces.units:
        used = [times[name] for name in unit if name in times]
        if units and times and not used:
            units[-1] += unit  # an auxiliary head doesn't run in eval mode
        else:
            units.append(list(unit))
            starts.append(min(used, default=-1))
    order = sorted(range(len(starts)), key=starts.__getitem__)
    layers = [units[i] for i in order] or [[]]
    starts = [starts[i] for i in order]
    for name in pieces.loose:
        index = bisect.bisect_right(starts, times.get(name, -1)) - 1
        layers[max(index, 0)].append(name)
    return layers


def _join_vectors(layers: Layers, heavy: AbstractSet[str]) -> Layers:
    """Let a layer without a matrix (a norm alone) join the layer before it, or after the stem."""
    joined: Layers = []
    for layer in layers:
        if joined and (heavy.isdisjoint(layer) or heavy.isdisjoint(joined[-1])):
            joined[-1].extend(layer)
        else:
            joined.append(list(layer))
    return joined
