"""Ask those who know a network best for its layers: mmpretrain, then timm."""

from __future__ import annotations

import inspect
import logging
from types import SimpleNamespace
from typing import Callable, Collection, NamedTuple

from mmengine.logging import print_log
from torch import nn

from tl_plugin.stack.model_wrappers import parameters, strip

#: Methods by which a network says what it knows of its own layers.
KNOWS_LAYERS = ('get_layer_depth', 'group_matcher', 'get_classifier')

#: A name that no pattern of a network matches: what follows all of its layers.
_BEHIND = '~behind~'


class Answer(NamedTuple):
    """What a network's owner says of its parameters.

    Attributes:
        depths: Parameter -> depth in the network, None where the owner leaves it to what follows
            (mmpretrain: the final norm).
        above: Parameter -> how many layers the owner counts above it, 0 for what it puts with the
            head. These are the powers of its learning rates.
    """

    depths: dict[str, int | None]
    above: dict[str, int]


def ask_mmpretrain(owner: nn.Module, names: Collection[str], prefix: str = '') -> Answer | None:
    """Ask for depths by mmpretrain's ``get_layer_depth``.

    Args:
        owner: The classifier or the backbone that may have the method.
        names: Parameter names of the backbone, relative to it.
        prefix: What stands before these names in the owner. Defaults to ''.

    Returns:
        The answer. None where there's no method, where it fails on a parameter, as it does for
        ResNet-18, or where it leaves out most, as it does for HiViT, whose blocks it looks for
        under a name they don't have.
    """
    method = getattr(owner, 'get_layer_depth', None)
    if not callable(method):
        return None
    try:
        answers = [_depth_and_count(method, prefix + name) for name in names]
    except Exception as error:  # the host raises whatever comes: IndexError, KeyError, ...
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
    answers = {name: _depth_and_count(method, name) for name in names}
    return {name: count - 1 - depth for name, (depth, count) in answers.items()}


def _depth_and_count(method: Callable, name: str) -> tuple[int, int]:
    if 'prefix' in inspect.signature(method).parameters:
        # A backbone. ResNet's looks for 'backbone.' in the name whatever the prefix is.
        return method(f'backbone.{name}', 'backbone.')
    return method(name)


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
    except Exception as error:  # matchers are foreign code too
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
