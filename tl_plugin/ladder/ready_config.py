"""Make a rung's ready config: a plain file that mmpretrain's own tools can run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.launch.config_types import importable
from tl_plugin.launch.configs import merge_options
from tl_plugin.launch.runs import add_test_metric
from tl_plugin.reliability.files import write_text
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import TARGET
from tl_plugin.strategies import apply_strategies

from .rungs import ALL, LABELLED_TARGET, SOURCE_AND_LABELLED, SOURCE_AND_TARGET, TWO_MODELS, Rung

CONFIG_NAME = 'config.py'
PREDICTIONS_NAME = 'predictions.pkl'
# What has a `target_dataloader`, and what has a `budget` of source accuracy.
TARGET_HOOKS = ('AdaBNHook', 'QualityMatchHook', 'TestTimeAdaptationHook')
TARGET_LOOPS = ('AdaptationTrainLoop', 'FrozenAlignmentLoop', 'InterpolationLoop')
WITH_LABELLED = (LABELLED_TARGET, SOURCE_AND_LABELLED)
WITH_UNLABELLED = (TARGET, SOURCE_AND_TARGET, ALL, TWO_MODELS)
#: Minimum number of labelled target images for each source image of a joint training: a quarter of
#: all images.
LEAST_RATIO = 1 / 3
WITH_BUDGET = ('RetentionHook', 'InterpolationLoop')


def check_measures_target(cfg: Config) -> None:
    """Check that the config tests on a domain called target.

    Raises:
        ValueError: If it doesn't.
    """
    domains = (cfg.get('test_cfg') or {}).get('dataloaders') or {}
    if TARGET not in domains:
        raise ValueError(
            'the ladder measures every rung on source and target, and this config tests on '
            f'{["source", *domains]}: set test_cfg = dict(type="DomainTestLoop", '
            'dataloaders=dict(target=dict(dataset=dict(...)))), and val_cfg likewise with '
            'DomainValLoop'
        )


def ready_config(cfg: Config, rung: Rung, seed: int, budget: float | None = None) -> Config:
    """Merge a rung into a config: strategies, then its data, then the rung's options.

    Args:
        cfg: The base config of the ladder. It isn't changed.
        rung: The rung.
        seed: The run's seed.
        budget: Points of source accuracy that may be lost, for the strategies that keep to such a
            budget. Defaults to None: they keep their own.

    Returns:
        A config without a ``ladder`` and without a folder, which :func:`place` adds.
    """
    ready = apply_strategies(cfg, rung.strategies)
    settings = ready.pop('ladder', None) or {}
    labelled = settings.get('labelled_target_dataloader')
    if rung.data in WITH_LABELLED or (rung.data == ALL and labelled):
        few = inherit_dataloader(
            ready.train_dataloader, labelled, 'ladder.labelled_target_dataloader', labelled=True
        )
        if rung.data == LABELLED_TARGET:
            ready.train_dataloader = few
        else:
            _add_labelled(ready, few)
    if rung.data in WITH_UNLABELLED and settings.get('target_dataloader'):
        _give_target(ready, _plain(settings.target_dataloader), settings.get('source_free'))
    if budget is not None:
        _set_budget(ready, budget)
    if rung.start is not None:
        merge_options(ready, _plain(rung.start_options))
    merge_options(ready, _plain(rung.options))
    ready.merge_from_dict({'randomness': {'seed': seed}})
    return ready


def _add_labelled(ready: Config, few: dict) -> None:
    """Mix the labelled target images with those of the source."""
    datasets = [_plain(ready.train_dataloader)['dataset'], few['dataset']]
    ready.train_dataloader.dataset = ConfigDict(
        type='SeveralSources', datasets=datasets, least_ratio=LEAST_RATIO
    )
    for hook in _hooks(ready):
        if type_name(hook) == 'QualityMatchHook':
            hook.setdefault('sources', [0])  # target images are degraded already


def _give_target(ready: Config, loader: dict, source_free: bool | None) -> None:
    """Give the target's images to the strategies: to their loop, or to their hooks."""
    if type_name(ready.train_cfg) == 'SourceFreeTrainLoop':
        if not source_free:  # there the training images are the target's already
            where = 'ladder.target_dataloader'
            ready.train_dataloader = inherit_dataloader(ready.train_dataloader, loader, where)
        return
    hooks = [hook for hook in _hooks(ready) if type_name(hook) in TARGET_HOOKS]
    for hook in hooks:
        hook.setdefault('target_dataloader', loader)
        if type_name(hook) == 'AdaBNHook':
            hook.setdefault('report_before', False)  # source_only has measured that
    if not hooks or type_name(ready.train_cfg) in TARGET_LOOPS:
        ready.merge_from_dict({'train_cfg': {'target_dataloader': loader}})


def _set_budget(ready: Config, budget: float) -> None:
    for place in (ready.train_cfg, *_hooks(ready)):
        if type_name(place) in WITH_BUDGET:
            place['budget'] = budget


def _hooks(ready: Config) -> list[dict]:
    return ready.get('custom_hooks') or []


def content_key(ready: Config, start_key: str | None, *more_keys: str) -> str:
    """Return a short hash of what determines a run's result: its config, and where it starts.

    Args:
        ready: Before :func:`place`, so that a moved folder keeps its results.
        start_key: Key of the run that it starts from; None for the config's own start.
        *more_keys: Keys of other runs whose checkpoints it reads.

    Raises:
        ValueError: If the config holds an object that can't be written to a file.
    """
    content = json.dumps(
        [importable(ready).to_dict(), start_key, *more_keys], sort_keys=True, default=_as_text
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _as_text(value: Any) -> Any:
    """Return text that is the same in every process, for what JSON has no form for."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, (bytes, complex, range)):
        return repr(value)
    raise ValueError(
        f'the ladder runs each rung from a file, which cannot hold {value!r}: put it into a module '
        'and import it from there in the config, or name it by its dotted path'
    )


def place(
    ready: Config, folder: Path, start_checkpoint: str | None, adapted: Sequence[str] = ()
) -> Path:
    """Set a ready config's folder and start, and write it there.

    Args:
        ready: From :func:`ready_config`. It isn't changed.
        folder: The run's folder.
        start_checkpoint: Checkpoint to start from. None keeps the config's own ``load_from``.
        adapted: Checkpoints of the models that are mixed with it, for ``train_cfg.adapted``.
            Defaults to none.

    Returns:
        Path of the written config.
    """
    placed = Config(importable(ready).to_dict())
    placed.work_dir = str(folder)
    placed.resume = False
    _set_start(placed, start_checkpoint, adapted)
    add_test_metric(placed, dict(type='DumpResults', out_file_path=str(folder / PREDICTIONS_NAME)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_NAME
    placed.dump(path)
    return path


def start_from(folder: Path, start_checkpoint: str | None, adapted: Sequence[str] = ()) -> None:
    """Set the start of a run that was placed before the runs which it builds on had ended.

    Args:
        folder: The run's folder.
        start_checkpoint: As in :func:`place`.
        adapted: As in :func:`place`.
    """
    path = folder / CONFIG_NAME
    placed = Config.fromfile(path)
    if _set_start(placed, start_checkpoint, adapted):
        write_text(path, placed.pretty_text)


def _set_start(placed: Config, start_checkpoint: str | None, adapted: Sequence[str]) -> bool:
    """Set what is given; return whether that changes the config."""
    before = placed.get('load_from'), placed.train_cfg.get('adapted')
    if start_checkpoint is not None:
        placed.load_from = start_checkpoint
    if adapted:
        placed.train_cfg.adapted = adapted[0] if len(adapted) == 1 else list(adapted)
    return before != (placed.get('load_from'), placed.train_cfg.get('adapted'))


def _plain(config: Mapping | None) -> dict:
    """Return a deep copy in plain dicts: merging in place would change the original."""
    return ConfigDict(config or {}).to_dict()
