"""Prepare configs and build runners, as ``tools/train.py`` and ``tools/test.py`` do."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.reliability.fault_tolerance import (
    STARTED_FROM,
    check_start,
    make_fault_tolerant,
    set_resume,
)
from tl_plugin.stack.options import type_name

from .checks import check_parts, check_target_is_read
from .cluster import VARIABLES, set_variables
from .config_types import importable
from .configs import default_work_dir
from .cpu import join_cpu_group, naming_synchronised_norms, runs_on_cpus, wrap_for_cpus


def prepare(
    cfg: Config,
    *,
    work_dir: str | Path | None = None,
    launcher: str = 'none',
    resume: str | None = None,
    amp: bool = False,
    validate: bool = True,
    auto_scale_lr: bool = False,
    pin_memory: bool = True,
    persistent_workers: bool = True,
) -> Config:
    """Write the flags of ``tools/train.py`` into a config, in place.

    Args:
        cfg: A config out of :func:`load_config`.
        work_dir: Where logs and checkpoints go; by default where the config says.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        resume: 'auto' for the latest checkpoint in the work folder, or a checkpoint's path. With
            'auto' and no checkpoint yet, the run starts as if the flag weren't there.
        amp: Train in mixed precision; on a CPU in bfloat16.
        validate: Evaluate during training.
        auto_scale_lr: Scale the learning rate by the real batch size.
        pin_memory: Whether loaders may pin memory; without a GPU they never do.
        persistent_workers: Whether loaders may keep their workers between epochs.

    Returns:
        The same config.

    Raises:
        ValueError: If the config or this machine can't do what a flag asks for.
        FileNotFoundError: If the checkpoint to resume from isn't there.
    """
    _prepare_run(cfg, work_dir, launcher)
    check_target_is_read(cfg)
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if amp:
        _set_amp(cfg)
    _amp_on_cpus(cfg)
    if resume is not None:
        set_resume(cfg, resume)
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                '--auto-scale-lr needs the batch size that the learning rate was meant for, and '
                'this config has none: add auto_scale_lr=dict(base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        _complete_loader(cfg, key, pin_memory, persistent_workers)
    return cfg


def prepare_test(
    cfg: Config,
    checkpoint: str,
    *,
    work_dir: str | Path | None = None,
    launcher: str = 'none',
    amp: bool = False,
    tta: bool = False,
    show: bool = False,
    show_dir: str | None = None,
    interval: int = 1,
    wait_time: float = 2,
    out_predictions: str | Path | None = None,
    pin_memory: bool = True,
) -> Config:
    """Write the flags of ``tools/test.py`` into a config, in place.

    Args:
        cfg: A config out of :func:`load_config`.
        checkpoint: Path or address of the weights.
        work_dir: Where the log goes; by default where the config says.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        amp: Predict in mixed precision.
        tta: Average over test-time augmentations: the config's own, or else a flip.
        show: Show predictions in a window.
        show_dir: Folder for images of predictions.
        interval: Show every n-th image.
        wait_time: Seconds that a window stays.
        out_predictions: A .pkl file for all predictions; one file per domain if there are several.
        pin_memory: Whether loaders may pin memory; without a GPU they never do.

    Returns:
        The same config.

    Raises:
        ValueError: If the config can't do what a flag asks for.
    """
    _prepare_run(cfg, work_dir, launcher)
    # A config out of a work folder may say that its run was a resumed one; a test is none.
    cfg.load_from, cfg.resume = checkpoint, False
    if amp:
        cfg.test_cfg.fp16 = True
    if show or show_dir is not None:
        if 'visualization' not in (cfg.get('default_hooks') or {}):
            raise ValueError(
                '--show and --show-dir need a VisualizationHook, and this config has none: add '
                "default_hooks=dict(visualization=dict(type='VisualizationHook'))"
            )
        cfg.default_hooks.visualization.update(
            enable=True, show=show, wait_time=wait_time, out_dir=show_dir, interval=interval
        )
    if tta:
        _set_tta(cfg)
    if out_predictions is not None:
        add_test_metric(cfg, dict(type='DumpResults', out_file_path=str(out_predictions)))
    _complete_loader(cfg, 'test_dataloader', pin_memory, persistent_workers=None)
    return cfg


def add_test_metric(cfg: Config, metric: dict) -> None:
    """Add a metric to those of the test, and of each domain that has evaluators of its own.

    Args:
        cfg: A config, changed in place.
        metric: The metric's config.
    """
    cfg.test_evaluator = _with_metric(cfg.get('test_evaluator'), metric)
    domains = (cfg.get('test_cfg') or {}).get('evaluators')
    if domains:
        cfg.test_cfg.evaluators = {
            name: _with_metric(evaluator, metric) for name, evaluator in domains.items()
        }


def _with_metric(evaluator: Any, metric: dict) -> Any:
    """Return an evaluator with one more metric, in the same form; the old one is not changed."""
    if isinstance(evaluator, Evaluator):
        evaluator = evaluator.metrics
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        longer = evaluator.copy()
        longer['metrics'] = _with_metric(evaluator['metrics'], metric)
        return longer
    several = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    return [*(one for one in several if one is not None), copy.deepcopy(metric)]


def build_runner(cfg: Config, plain: bool = False) -> Runner:
    """Build the runner that a prepared config describes; on CPUs join the processes first.

    Args:
        cfg: Out of :func:`prepare` or :func:`prepare_test`. What ``make_fault_tolerant`` of
            :mod:`tl_plugin.reliability.fault_tolerance` adds is in the runner's copy.
        plain: Add nothing, so that the run is mmpretrain's own. Defaults to False.

    Raises:
        FileNotFoundError: If ``load_from`` is a file that isn't there.
        BrokenCheckpointError: If it is damaged, or holds more than data.
    """
    cfg = importable(cfg if plain else make_fault_tolerant(cfg))
    started_from = cfg.pop(STARTED_FROM, None)
    if not plain:
        # mmengine writes the config out four times before a run; to format it took most of a start.
        vars(cfg).update(_format_python_code=False)
    check_start(cfg)
    if cfg.get('launcher', 'none') in VARIABLES and not dist.is_initialized():
        set_variables(cfg.launcher)
    if runs_on_cpus(cfg):
        join_cpu_group(cfg)
    with naming_synchronised_norms():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('launcher', 'none') != 'none' or cfg.get('resume'):
        _write_config_of_run(runner, started_from)
    return runner


def _write_config_of_run(runner: Runner, started_from: str | None) -> None:
    """Leave the launcher and the checkpoint to resume from out of the written config.

    Otherwise tools that read it, such as mmpretrain's ``confusion_matrix.py``, would wait for other
    processes, or resume from the checkpoint that they test.
    """
    if runner.cfg.get('resume'):
        runner.cfg.resume, runner.cfg.load_from = False, started_from
    runner.cfg.launcher = 'none'
    runner.dump_config()


def _prepare_run(cfg: Config, work_dir: str | Path | None, launcher: str) -> None:
    check_parts(cfg)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = default_work_dir(cfg.filename or 'config')
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper and not isinstance(wrapper.get('type', ''), str):
        # Here alone mmengine takes names, but no classes.
        cfg.model_wrapper_cfg = importable(Config(wrapper.to_dict())).to_dict()
    if runs_on_cpus(cfg):
        wrap_for_cpus(cfg)


def _set_amp(cfg: Config) -> None:
    old = type_name(cfg.optim_wrapper)
    if old not in ('', 'OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        raise ValueError(
            f'--amp makes optim_wrapper.type an AmpOptimWrapper, which can stand in for '
            f'OptimWrapper, but this config has {old!r}; set its precision in the config'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _amp_on_cpus(cfg: Config) -> None:
    """Put the wrapper that works on a CPU in the place of mmengine's, which asks for a GPU."""
    if type_name(cfg.get('optim_wrapper') or {}) != 'AmpOptimWrapper' or get_device() != 'cpu':
        return
    cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    print_log(
        'Mixed precision on a CPU computes in bfloat16, without a gradient scaler. It saves '
        'memory, and time only where the processor has instructions for it (AVX512-BF16, AMX)',
        logger='current',
        level=logging.WARNING,
    )


def _set_tta(cfg: Config) -> None:
    datasets = inner_configs(cfg.test_dataloader.dataset)
    pipeline = datasets[0].pipeline
    if 'tta_pipeline' not in cfg:
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        packing = copy.deepcopy(pipeline[-1])
        tta = dict(type='TestTimeAug', transforms=[flips, [packing]])
        cfg.tta_pipeline = [*copy.deepcopy(pipeline[:-1]), tta]
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = copy.deepcopy(cfg.tta_pipeline)


def _complete_loader(
    cfg: Config, key: str, pin_memory: bool, persistent_workers: bool | None
) -> None:
    """Fill in mmpretrain's defaults; ``persistent_workers=None`` leaves that one out."""
    loader = cfg.get(key)
    if loader is None:
        return
    loader.setdefault('collate_fn', dict(type='default_collate'))
    loader.setdefault('pin_memory', True)
    if not pin_memory or get_device() == 'cpu':
        loader.pin_memory = False
    if persistent_workers is not None:
        loader.setdefault('persistent_workers', True)
    if persistent_workers is False or not loader.get('num_workers'):
        # torch refuses persistent workers where there are none.
        loader.persistent_workers = False
