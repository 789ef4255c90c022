"""What a config will train: its layers, when they train and how fast."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import HOOKS
from torch import nn

from tl_plugin.engine.freezing.plan import times_by_name
from tl_plugin.engine.freezing.trainable import disable_frozen_stages
from tl_plugin.engine.hooks.freeze_hook import FreezeHook, refuse_overlaps
from tl_plugin.engine.hooks.gradual_unfreeze_hook import GradualUnfreezeHook
from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.layers.module_kinds import is_norm
from tl_plugin.engine.optimizers.scheduler_check import warn_of_absolute_rates
from tl_plugin.reporting.tables import make_table
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import parameters
from tl_plugin.stack.options import type_name

from .features import build_model

START, NEVER = 'the start', 'never'


def layer_report(cfg: Config) -> dict[str, Any]:
    """Work out what a config trains, without data, weights or a Runner.

    Args:
        cfg: A config, with its strategies merged.

    Returns:
        Plain values, fit for JSON: ``layers`` (for each depth: ``modules``, ``weights``,
        ``trains`` (number of weights by when they begin to), ``lr``, ``weight_decay``, ``norm``
        (number of norm layers by mode), ``groups``), ``groups`` of the optimizer, ``totals``.

    Raises:
        ValueError: The config's hooks or optimizer can't work with its model or each other.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        model = build_model(cfg, weights=False)
        optim_wrapper = _build_optimizer(cfg, model)
        hooks = _freeze_hooks(cfg)
    layer_map = LayerMap.from_model(model)
    for hook in hooks:
        hook.initially_frozen = frozenset(hook.select(layer_map))
    refuse_overlaps(hooks)
    begins = _begins(model, layer_map, hooks)
    groups = _groups(model, optim_wrapper)
    norms = _norm_modes(model, layer_map, hooks)
    sizes = {name: value.numel() for name, value in parameters(model).items()}
    layers = [
        _layer(depth, layer_map, sizes, begins, groups, norms)
        for depth in range(layer_map.num_layers)
    ]
    _warn_of_schedulers(cfg, groups)
    weights = Counter()
    for name, size in sizes.items():
        weights[begins[name]] += size
    return dict(
        model=type_name(cfg.model),
        backbone=type_name(cfg.model.get('backbone') or {}),
        layers=layers,
        groups=[{k: v for k, v in group.items() if k != 'names'} for group in groups],
        totals=dict(
            weights=sum(sizes.values()),
            tensors=len(sizes),
            trained=weights[START],
            trained_in_the_end=sum(sizes.values()) - weights[NEVER],
            groups=len(groups),
        ),
    )


def layer_table(report: dict[str, Any]) -> Any:
    """Lay out a report as a rich table.

    Args:
        report: What :func:`layer_report` returned.
    """
    rows = [
        (
            layer['depth'],
            short_list(layer['modules'], limit=3),
            f'{layer["weights"]:,}',
            _trains(layer['trains']),
            *(' / '.join(f'{value:.4g}' for value in layer[key]) for key in ('lr', 'weight_decay')),
            ', '.join(f'{count} {mode}' for mode, count in layer['norm'].items()),
            short_list([name.split('/', 1)[-1] for name in layer['groups']], limit=3),
        )
        for layer in report['layers']
    ]
    totals = report['totals']
    now, end = (
        f'{100 * totals[key] / totals["weights"]:.1f} %'
        for key in ('trained', 'trained_in_the_end')
    )
    footer = (
        '',
        f'{totals["tensors"]} tensors',
        f'{totals["weights"]:,}',
        f'{now} at the start, {end} in the end',
        '',
        '',
        '',
        f'{totals["groups"]} groups',
    )
    columns = 'depth,modules,weights,trains from,lr,weight decay,norm layers,optimizer groups'
    title = f'{report["model"]} {report["backbone"]}'
    return make_table(title, columns.split(','), rows, footer)


def _build_optimizer(cfg: Config, model: nn.Module) -> OptimWrapper | None:
    given = cfg.get('optim_wrapper')
    if not given or 'optimizer' not in given:
        return None
    # Another wrapper, such as that of mixed precision, changes no group but may want a GPU.
    parts = ('optimizer', 'constructor', 'paramwise_cfg')
    return build_optim_wrapper(model, Config({k: given[k] for k in parts if k in given})._cfg_dict)


def _freeze_hooks(cfg: Config) -> list[FreezeHook]:
    found = []
    for given in cfg.get('custom_hooks') or []:
        kind = HOOKS.get(given['type']) if isinstance(given['type'], str) else given['type']
        if kind is not None and issubclass(kind, FreezeHook):
            given = copy.deepcopy(given)
            given.pop('priority', None)
            found.append(HOOKS.build(given))
    return found


def _begins(model: nn.Module, layer_map: LayerMap, hooks: list[FreezeHook]) -> dict[str, str]:
    """Say for each parameter when it begins to train."""
    thawed = disable_frozen_stages(model) if hooks else set()
    begins = {
        name: START if value.requires_grad or name in thawed else NEVER
        for name, value in parameters(model).items()
    }
    for hook in hooks:
        times = {}
        if isinstance(hook, GradualUnfreezeHook):
            phases = hook.schedule.phases(layer_map, sorted(hook.initially_frozen))
            times = times_by_name(phases, hook.schedule)
        for name in hook.policy.frozen_names(model, hook.initially_frozen):
            if begins[name] == START:
                begins[name] = times.get(name, NEVER)
    return begins


def _groups(model: nn.Module, optim_wrapper: OptimWrapper | None) -> list[dict[str, Any]]:
    if optim_wrapper is None:
        return []
    names = {id(value): name for name, value in parameters(model).items()}
    return [
        dict(
            name=group.get('name', f'group_{index:03d}'),
            lr=group['lr'],
            weight_decay=group.get('weight_decay', 0),
            tensors=len(group['params']),
            weights=sum(value.numel() for value in group['params']),
            names=[names[id(value)] for value in group['params']],
        )
        for index, group in enumerate(optim_wrapper.optimizer.param_groups)
    ]


def _norm_modes(model: nn.Module, layer_map: LayerMap, hooks: list[FreezeHook]) -> list[Counter]:
    """Count the norm layers of each layer by the mode they start in."""
    names = {id(value): name for name, value in parameters(model).items()}
    modes = [Counter() for _ in range(layer_map.num_layers)]
    norm_eval = {
        id(module)
        for outer in model.modules()
        if getattr(outer, 'norm_eval', None) is True
        for module in outer.modules()
    }
    for module in filter(is_norm, model.modules()):
        own = {names[id(v)] for v in module.parameters(recurse=False) if id(v) in names}
        if own:
            mode = 'eval (norm_eval)' if id(module) in norm_eval else 'train'
            for hook in hooks:
                if own <= hook.initially_frozen:
                    trained = '' if hook.policy.norm_affine == 'frozen' else ', affine trained'
                    mode = hook.policy.norm + trained
            modes[layer_map.depth(min(own))][mode] += 1
    return modes


def _layer(
    depth: int,
    layer_map: LayerMap,
    sizes: dict[str, int],
    begins: dict[str, str],
    groups: list[dict],
    norms: list[Counter],
) -> dict[str, Any]:
    names = set(layer_map.names(depth))
    trains = Counter()
    for name in names:
        trains[begins[name]] += sizes[name]
    mine = [group for group in groups if names.intersection(group['names'])]
    return dict(
        depth=depth,
        modules=layer_map.modules(depth),
        weights=sum(sizes[name] for name in names),
        tensors=len(names),
        trains=dict(sorted(trains.items(), key=lambda item: -item[1])),
        lr=sorted({group['lr'] for group in mine}, reverse=True),
        weight_decay=sorted({group['weight_decay'] for group in mine}, reverse=True),
        norm=dict(norms[depth]),
        groups=[group['name'] for group in mine],
    )


def _warn_of_schedulers(cfg: Config, groups: list[dict]) -> None:
    schedulers = cfg.get('param_scheduler') or []
    if len({group['lr'] for group in groups}) > 1:
        warn_of_absolute_rates([schedulers] if isinstance(schedulers, dict) else schedulers)
    if not groups:
        print_log(
            'The config has no optim_wrapper, so no learning rates are known.',
            logger='current',
            level=logging.WARNING,
        )


def _trains(trains: dict[str, int]) -> str:
    if len(trains) == 1:
        return next(iter(trains))
    return ', '.join(f'{when}: {weights:,}' for when, weights in trains.items())
