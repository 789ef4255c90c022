"""What ``tools/train.py`` and ``tools/test.py`` do, for whoever runs configs from Python.

>>> cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py', ['feature_extraction'],
...                   {'train_cfg.max_epochs': 1})
>>> cfg.train_cfg.max_epochs, default_work_dir('configs/resnet18.py', ['feature_extraction'])
(1, 'work_dirs/resnet18_feature_extraction')
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from tl_plugin.cpu_launch import join_cpu_group, runs_on_cpus, wrap_for_cpus
from tl_plugin.fault_tolerance import check_start, make_fault_tolerant, set_resume
from tl_plugin.strategies import apply_strategies, configs_dir


def config_file(config: str | Path) -> Path:
    """Finds a config file.

    Args:
        config: A path, or ``package::path`` for a config that came with an installed package,
            such as ``mmpretrain::resnet/resnet18_8xb16_cifar10.py``.

    Raises:
        ValueError: If no such package is installed or it came without configs.
        FileNotFoundError: If there is no such file; names the nearest ones.
    """
    package, separator, name = str(config).rpartition('::')
    if not separator:
        if not Path(config).is_file():
            raise FileNotFoundError(
                f'no config file at {Path(config).absolute()}; a config that came with a package '
                'is written package::path, such as mmpretrain::resnet/resnet18_8xb16_cifar10.py'
            )
        return Path(config)
    folder = _configs_of(package)
    if not (folder / name).is_file():
        known = [path.relative_to(folder).as_posix() for path in folder.rglob('*.py')]
        near = difflib.get_close_matches(name, known, n=3)
        hint = f'; did you mean {" or ".join(near)}?' if near else ''
        raise FileNotFoundError(f'{package} came with no config {name!r} (in {folder}){hint}')
    return folder / name


def _configs_of(package: str) -> Path:
    if package == 'tl_plugin':
        return configs_dir()
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ValueError(f'no package {package!r} is installed here, expected one like mmpretrain')
    folder = Path(spec.origin).parent / '.mim' / 'configs'
    if not folder.is_dir():
        raise ValueError(f'package {package!r} came without configs: {folder} is not there')
    return folder


def load_config(
    config: str | Path, strategies: Sequence[str] = (), cfg_options: dict | None = None
) -> Config:
    """Reads a config, merges strategies over it, then single options over both.

    Args:
        config: A path or ``package::path``, see :func:`config_file`.
        strategies: Names of overlays, see :func:`tl_plugin.strategies.apply_strategies`.
        cfg_options: Single settings by dotted key, such as ``{'train_cfg.max_epochs': 5}``.

    Returns:
        The config.
    """
    cfg = apply_strategies(Config.fromfile(config_file(config)), list(strategies))
    if cfg_options:
        cfg.merge_from_dict(cfg_options)
    return cfg


def default_work_dir(config: str | Path, strategies: Sequence[str] = ()) -> str:
    """``work_dirs/<config>[_<strategy>...]``: each way to run a config has its own folder."""
    names = [Path(str(config).rpartition('::')[2]).stem, *(Path(name).stem for name in strategies)]
    return str(Path('work_dirs', '_'.join(names)))


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
    """Writes the flags of ``tools/train.py`` into a config, in place.

    Args:
        cfg: A config out of :func:`load_config`.
        work_dir: Where logs and checkpoints go; by default where the config says.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        resume: 'auto' for the latest checkpoint in the work folder, or a checkpoint's path. With
            'auto' and no checkpoint yet, the run starts as if the flag weren't there.
        amp: Train in mixed precision.
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
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if amp:
        _set_amp(cfg)
    _check_amp(cfg)
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
    """Writes the flags of ``tools/test.py`` into a config, in place.

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
        out_predictions: A .pkl file for all predictions; one a domain if there are several.
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
        _add_metric(cfg, dict(type='DumpResults', out_file_path=str(out_predictions)))
    _complete_loader(cfg, 'test_dataloader', pin_memory, persistent_workers=None)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Builds the runner that a prepared config describes; on CPUs it joins the processes first.

    Args:
        cfg: Out of :func:`prepare` or :func:`prepare_test`. What
            :func:`~tl_plugin.fault_tolerance.make_fault_tolerant` adds is in the runner's copy.

    Raises:
        FileNotFoundError: If ``load_from`` is a file that isn't there.
        BrokenCheckpointError: If it is damaged, or holds more than data.
    """
    cfg = make_fault_tolerant(cfg)
    check_start(cfg)
    if runs_on_cpus(cfg):
        join_cpu_group(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _prepare_run(cfg: Config, work_dir: str | Path | None, launcher: str) -> None:
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = default_work_dir(cfg.filename or 'config')
    if runs_on_cpus(cfg):
        wrap_for_cpus(cfg)


def _set_amp(cfg: Config) -> None:
    old = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if old not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(
            f'--amp makes optim_wrapper.type an AmpOptimWrapper, which can stand in for '
            f'OptimWrapper, but this config has {old!r}; set its precision in the config'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _check_amp(cfg: Config) -> None:
    if (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise ValueError(
            'mixed precision (--amp, or AmpOptimWrapper in the config) speeds up training on GPUs; '
            "mmengine doesn't offer it on a CPU, and there is no other device here"
        )


def _set_tta(cfg: Config) -> None:
    pipeline = cfg.test_dataloader.dataset.pipeline
    if 'tta_pipeline' not in cfg:
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        packing = copy.deepcopy(pipeline[-1])
        tta = dict(type='TestTimeAug', transforms=[flips, [packing]])
        cfg.tta_pipeline = [*copy.deepcopy(pipeline[:-1]), tta]
    if 'tta_model' not in cfg:
        cfg.tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline


def _add_metric(cfg: Config, metric: dict) -> None:
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator.metrics = [*_as_list(evaluator.metrics), metric]
    else:
        cfg.test_evaluator = [*_as_list(evaluator), metric]


def _as_list(value: dict | list) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _complete_loader(
    cfg: Config, key: str, pin_memory: bool, persistent_workers: bool | None
) -> None:
    """Fills in mmpretrain's defaults; ``persistent_workers=None`` leaves that one out."""
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
