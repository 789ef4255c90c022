"""Read configs by path or package, with strategies and single options over them.

>>> cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py', ['feature_extraction'],
...                   {'train_cfg.max_epochs': 1})
>>> cfg.train_cfg.max_epochs, default_work_dir('configs/resnet18.py', ['feature_extraction'])
(1, 'work_dirs/resnet18_feature_extraction')
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from tl_plugin.stack.messages import did_you_mean
from tl_plugin.stack.options import type_name
from tl_plugin.strategies import apply_strategies, configs_dir

from .checks import check_model, read_config


def config_file(config: str | Path) -> Path:
    """Find a config file.

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
        hint = did_you_mean(name, known, 3)
        raise FileNotFoundError(f'{package} came with no config {name!r} (in {folder}).{hint}')
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
    """Read a config, merge strategies over it, then single options over both.

    Args:
        config: A path or ``package::path``, see :func:`config_file`.
        strategies: Names of overlays, see :func:`tl_plugin.strategies.apply_strategies`.
        cfg_options: Single settings by dotted key, see :func:`merge_options`.

    Returns:
        The config.

    Raises:
        ValueError: If the file is no config, or the config has no model.
    """
    cfg = apply_strategies(read_config(config_file(config)), list(strategies))
    merge_options(cfg, cfg_options or {})
    check_model(cfg)
    return cfg


def load_data_config(config: str | Path) -> Config:
    """Read a config for its data alone; it need have no model.

    Args:
        config: A path or ``package::path``, see :func:`config_file`.
    """
    return read_config(config_file(config))


def merge_options(cfg: Config, options: dict) -> None:
    """Merge single settings into a config, those of a hook by the hook's class.

    Where a hook stands in ``custom_hooks`` depends on the config and on the strategies before, so
    that ``custom_hooks.0`` isn't the same hook everywhere.

    Args:
        cfg: A config, changed in place.
        options: Settings by dotted key, such as ``{'train_cfg.max_epochs': 5}`` or
            ``{'custom_hooks.AdaBNHook.max_batches': 9}``.

    Raises:
        ValueError: If the config has no hook of that class, or several.
    """
    by_place = {}
    for key, value in options.items():
        first, *rest = key.split('.')
        if first == 'custom_hooks' and rest:
            key = '.'.join([first, _place_of_hook(cfg, rest[0]), *rest[1:]])
        elif key == 'custom_hooks' and isinstance(value, dict):
            value = {_place_of_hook(cfg, name): change for name, change in value.items()}
        by_place[key] = value
    cfg.merge_from_dict(by_place)


def _place_of_hook(cfg: Config, name: str) -> str:
    """Return the index of a hook of that class in ``custom_hooks``; numbers stay as they are."""
    if name.isdigit():
        return name
    kinds = [type_name(hook) for hook in cfg.get('custom_hooks') or []]
    if kinds.count(name) == 1:
        return str(kinds.index(name))
    if name in kinds:
        places = ' or '.join(f'custom_hooks.{i}' for i, kind in enumerate(kinds) if kind == name)
        raise ValueError(f'this config has {kinds.count(name)} hooks {name}: write {places}')
    raise ValueError(
        f'custom_hooks.{name}: this config has no such hook.{did_you_mean(name, kinds)} Its '
        f'custom_hooks are {", ".join(kinds) or "empty"}'
    )


def default_work_dir(config: str | Path, strategies: Sequence[str] = ()) -> str:
    """Return ``work_dirs/<config>[_<strategy>...]``, one folder for each way to run a config."""
    names = [Path(str(config).rpartition('::')[2]).stem, *(Path(name).stem for name in strategies)]
    return str(Path('work_dirs', '_'.join(names)))
