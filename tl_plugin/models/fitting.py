"""Fits the parts of a classifier together."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from mmpretrain.registry import MODELS
from torch import nn
from torch.utils._pytree import tree_flatten

from tl_plugin.engine.layers.dry_run import dry_run
from tl_plugin.reliability.class_sets import has_several_labels
from tl_plugin.stack.options import type_name

from .data_preprocessor import DomainDataPreprocessor
from .rows import channel_dim


def build_module(cfg: Any) -> nn.Module | None:
    """Builds a backbone or neck, if it isn't built yet."""
    # A list of configs, as HRNet's necks are, builds a sequence of them.
    return cfg if cfg is None or isinstance(cfg, nn.Module) else MODELS.build(cfg)


def domain_preprocessor(cfg: Any) -> Any:
    """Makes a stock preprocessor one that takes pairs of batches, refuses what can't be one."""
    if cfg is None or isinstance(cfg, dict):
        cfg = dict(cfg or {})
        if type_name(cfg) in ('', 'ClsDataPreprocessor'):
            cfg['type'] = DomainDataPreprocessor
        return cfg
    if not isinstance(cfg, DomainDataPreprocessor):
        raise ValueError(
            'AdaptationClassifier gets pairs of batches and needs a DomainDataPreprocessor, '
            f'got {type(cfg).__name__}'
        )
    return cfg


def check_losses(key: str, configs: Any, base: type, taken: Collection[str] = ()) -> None:
    """Refuses parts of a loss that can't be built or logged.

    Args:
        key: Where they stand in the config, for messages: 'model.alignments'.
        configs: Name -> config; None switches one off.
        base: What each must be.
        taken: Names that other losses have.

    Raises:
        ValueError: If one has an impossible name.
        TypeError: If one is something else.
    """
    if not isinstance(configs, dict):
        raise TypeError(f'{key} must be a dict of name to dict(type=...), got {configs!r}')
    for name, cfg in configs.items():
        if not isinstance(name, str) or not name.isidentifier() or 'loss' in name or name in taken:
            others = f' that no other loss has ({", ".join(taken)} are taken)' if taken else ''
            raise ValueError(
                f'the names in {key} must be Python identifiers without "loss" in them{others}, '
                f'got {name!r}: it becomes loss_<name> in the log, and mmengine adds up every '
                'value that has "loss" in its name'
            )
        if cfg is None:
            continue
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise TypeError(f'{key}.{name} must be a dict(type=...), got {cfg!r}')
        kind = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, base)):
            raise TypeError(f'{key}.{name}: {cfg["type"]!r} is no {base.__name__}')


def build_losses(configs: dict, **defaults: Any) -> dict[str, nn.Module]:
    """Builds the parts of a loss.

    Args:
        configs: Name -> config, checked by :func:`check_losses`; None switches one off.
        **defaults: Arguments that each takes.
    """
    return {
        name: MODELS.build(cfg, default_args=defaults)
        for name, cfg in configs.items()
        if cfg is not None
    }


def fit_head(head: Any, backbone: nn.Module, neck: nn.Module | None) -> Any:
    """Fills in ``in_channels`` where it is missing, refuses one that doesn't fit."""
    if not isinstance(head, dict):
        return head
    head_class = MODELS.get(head['type']) if isinstance(head['type'], str) else head['type']
    parameters = inspect.signature(head_class).parameters if head_class else {}
    if 'in_channels' not in parameters:
        return head
    width = _feature_width(backbone, neck)
    given = head.get('in_channels')
    if given is None:
        return {**head, 'in_channels': width}
    if isinstance(given, int) and given != width:
        raise ValueError(
            f'head.in_channels is {given}, but {type(backbone).__name__}'
            f'{" with " + type(neck).__name__ if neck is not None else ""} gives features of width '
            f'{width}: set in_channels={width}, or leave it out'
        )
    return head


def fit_neck(neck: Any, backbone: nn.Module) -> Any:
    """Fills in ``in_channels`` of a neck that takes any backbone."""
    if not isinstance(neck, dict) or neck.get('in_channels') is not None:
        return neck
    kind = MODELS.get(neck['type']) if isinstance(neck['type'], str) else neck['type']
    if not getattr(kind, 'fits_backbone', False):
        return neck
    return {**neck, 'in_channels': _feature_width(backbone, None)}


def _feature_width(backbone: nn.Module, neck: nn.Module | None) -> int:
    stages = nn.Sequential(backbone, *([neck] if neck is not None else []))
    feats = dry_run(stages, lambda network, inputs: network(inputs))
    last = feats[-1] if isinstance(feats, (tuple, list)) else feats
    last = tree_flatten(last)[0][-1]  # [patch tokens, class token]: heads read the class token
    return last.shape[channel_dim(last)]


def check_head(head: Any, losses: Mapping[str, Any]) -> None:
    """Refuses losses over classes beside a head that gives an image several of them.

    Args:
        head: The classifier's.
        losses: Alignments and regularizers by name.

    Raises:
        ValueError: If one of them takes the head's scores for one softmax, and they are none.
    """
    reading = [name for name, loss in losses.items() if loss.needs_logits]
    if reading and has_several_labels(head):
        raise ValueError(
            f'{", ".join(reading)}: these losses need one class an image, a softmax over the '
            f'classes, and {type(head).__name__} scores each class by itself, for images of '
            'several: use losses on features (dann, dan, deep_coral, afn, l2_sp, delta), or a head '
            'such as LinearClsHead'
        )


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuses a setting that isn't one of those that there are."""
    if value not in known:
        raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')
