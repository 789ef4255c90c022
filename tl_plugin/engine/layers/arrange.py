"""Put the parameters of any model into layers, shallow to deep.

mmpretrain and timm know the layers of many networks (:func:`ask_mmpretrain`, :func:`ask_timm`); any
other network is split into units, in the order in which these run.
"""

from __future__ import annotations

import bisect
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from types import SimpleNamespace
from typing import List, NamedTuple

from mmengine.logging import print_log
from torch import nn

from tl_plugin.stack.model_wrappers import children, matrix_ids, parameters, strip, unwrap

from .blocks import split_into_units
from .dry_run import execution_order

Layers = List[List[str]]
#: Methods by which a network describes its own layers.
KNOWS_LAYERS = ('get_layer_depth', 'group_matcher', 'get_classifier')

#: A name that no pattern of a network matches: what follows all of its layers.
_BEHIND = '~behind~'

#: A parameter of a norm that is called nothing else.
_NORM = re.compile(r'(norm|ln)\d*\.(weight|bias)')


class Arrangement(NamedTuple):
    """A model's parameters in layers.

    Attributes:
        layers: Those of the backbone, shallow to deep.
        head: All that isn't backbone.
        above: Parameter -> how many layers its learning rate has above it, where mmpretrain or timm
            knows. It can differ from the layers here: they may put a backbone's final norm with the
            head, or skip layers that a small variant of a network lacks.
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
    """Descend from a class that only holds a network, as TIMMBackbone does, to that network.

    Args:
        module: Any module.

    Returns:
        The prefix of its names, and the module that knows its layers or has a backbone; ``module``
        itself where there's none.
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
    """Group by known depths; a parameter without one follows what runs before it."""
    if None in depths.values():
        times = {} if _ends_with_norm(depths) else _times(core, matrices)
        depths = _place_rest(depths, times)
    layers: dict[int, list[str]] = {}
    for name, depth in depths.items():
        layers.setdefault(depth, []).append(name)
    return [layers[depth] for depth in sorted(layers)]


def _ends_with_norm(depths: Mapping[str, int | None]) -> bool:
    """Tell whether nothing but a final norm has no depth, whose place is clear without a trial run.

    Its owner counts it with the head, it is registered behind the deepest layer, and its name says
    no more than that it is a norm: ViT's ``pre_norm`` is registered there, too, and runs first.
    """
    names = [*depths]
    rest = [name for name in names if depths[name] is None]
    placed = names[: len(names) - len(rest)]
    return (
        len({name.rpartition('.')[0] for name in rest}) == 1
        and all(_NORM.fullmatch(name) for name in rest)
        and rest == names[len(placed) :]
        and depths[placed[-1]] == max(depths[name] for name in placed)
    )


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
    """Split into units and sort them by the time at which they first run."""
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


def _join_vectors(layers: Layers, heavy: Set[str]) -> Layers:
    """Let a layer without a matrix (a norm alone) join the layer before it, or after the stem."""
    joined: Layers = []
    for layer in layers:
        if joined and (heavy.isdisjoint(layer) or heavy.isdisjoint(joined[-1])):
            joined[-1].extend(layer)
        else:
            joined.append(list(layer))
    return joined


class Answer(NamedTuple):
    """What mmpretrain or timm knows of a network's parameters.

    Attributes:
        depths: Parameter -> depth in the network, None where it has none (mmpretrain: the final
            norm).
        above: Parameter -> how many layers are counted above it, 0 for what is put with the head.
            These are the powers of layer-wise learning rates.
    """

    depths: dict[str, int | None]
    above: dict[str, int]


def ask_mmpretrain(owner: nn.Module, names: Collection[str], prefix: str = '') -> Answer | None:
    """Ask for depths by mmpretrain's ``get_layer_depth``.

    Args:
        owner: The classifier or the backbone that may have the method.
        names: Parameter names of the backbone, relative to it.
        prefix: Prefix of these names in the owner. Defaults to ''.

    Returns:
        The answer. None where there's no method, where it fails on a parameter, as it does for
        ResNet-18, or where it leaves out most, as it does for HiViT, whose blocks have another
        name there.
    """
    method = getattr(owner, 'get_layer_depth', None)
    if not callable(method):
        return None
    try:
        answers = _depths_and_counts(method, [prefix + name for name in names])
    except Exception as error:  # mmpretrain raises IndexError, KeyError, ...
        _log_failure(method, f'{type(error).__name__}: {error}')
        return None
    placed = {name: depth for name, (depth, count) in zip(names, answers) if depth < count - 1}
    if 2 * len(placed) < len(names):
        _log_failure(method, f'it places {len(placed)} of {len(names)} parameters')
        return None
    above = {name: count - 1 - depth for name, (depth, count) in zip(names, answers)}
    return Answer({name: placed.get(name) for name in names}, above)


def rates_behind(owner: nn.Module, names: Collection[str]) -> dict[str, int]:
    """Ask mmpretrain for the layers above what follows a backbone: none, but for MixMIM's neck.

    Args:
        owner: The classifier, whose backbone has answered.
        names: Parameter names of all that isn't backbone.

    Returns:
        Parameter -> how many layers are above it; empty where the classifier can't be asked.
    """
    method = getattr(owner, 'get_layer_depth', None)
    if not callable(method):
        return {}
    answers = _depths_and_counts(method, names)
    return {name: count - 1 - depth for name, (depth, count) in zip(names, answers)}


def _depths_and_counts(method: Callable, names: Iterable[str]) -> list[tuple[int, int]]:
    if 'prefix' in inspect.signature(method).parameters:
        # A backbone. ResNet's looks for 'backbone.' in the name whatever the prefix is.
        return [method(f'backbone.{name}', 'backbone.') for name in names]
    return [method(name) for name in names]


def ask_timm(owner: nn.Module, names: Collection[str]) -> Answer | None:
    """Ask for depths by timm's ``group_matcher``.

    Args:
        owner: The timm model.
        names: Its parameter names.

    Returns:
        The answer; its depth is None for a parameter that the matcher leaves out. None where
        there's no matcher or where it fails.
    """
    matcher = getattr(owner, 'group_matcher', None)
    if not callable(matcher):
        return None
    from timm.models import group_parameters

    # timm reads names from a module; under FSDP or compile the module's own names don't match.
    named = SimpleNamespace(named_parameters=lambda: [(n, None) for n in (*names, _BEHIND)])
    try:
        groups = group_parameters(named, matcher(coarse=False), reverse=True)
    except Exception as error:  # a matcher may raise anything, too
        _log_failure(matcher, f'{type(error).__name__}: {error}')
        return None
    classifier = [groups[name] for name in classifier_names(owner) if name in groups]
    top = max(classifier, default=groups.get(_BEHIND, max(groups.values()) + 1))
    above = {name: max(top - groups[name], 0) for name in names if name in groups}
    return Answer({name: groups.get(name) for name in names}, above)


def classifier_names(core: nn.Module) -> set[str]:
    """Name the parameters of the classifier that a timm model says it has.

    Args:
        core: Any network.

    Returns:
        Their names, an empty set for a network that names no classifier.
    """
    get_classifier = getattr(core, 'get_classifier', None)
    if not callable(get_classifier):
        return set()
    found = get_classifier()
    modules = list(found) if isinstance(found, (tuple, list)) else [found]
    # The config also names those that aren't asked for a prediction: VOLO's auxiliary head.
    paths = (getattr(core, 'pretrained_cfg', None) or {}).get('classifier') or ()
    paths = [paths] if isinstance(paths, str) else paths
    modules += [part for name, part in core.named_modules() if strip(name) in paths]
    owned = {id(p) for m in modules if isinstance(m, nn.Module) for p in m.parameters()}
    return {name for name, value in parameters(core).items() if id(value) in owned}


def _log_failure(method: Callable, reason: str) -> None:
    name = getattr(method, '__qualname__', repr(method))
    print_log(
        f'{name} gives no depths ({reason}); the layers are found in another way.',
        logger='current',
        level=logging.DEBUG,
    )
