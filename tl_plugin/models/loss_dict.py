from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from mmengine.model import ModuleDict
from mmpretrain.registry import MODELS
from torch import nn


class LossDict(ModuleDict):
    """Named losses of a classifier, built from configs.

    Args:
        key: Where the configs stand, for messages: 'model.alignments'.
        configs: Name -> config; None switches one off.
        base: The class that each loss must derive from.
        taken: Names that other losses have. Defaults to ().
        defaults: Returns arguments that each loss takes; called if there is any loss. Defaults to
            None.

    Raises:
        ValueError: If a name cannot be the name of a loss.
        TypeError: If a config is none, or asks for another kind of module.
    """

    def __init__(
        self,
        key: str,
        configs: Any,
        base: type[nn.Module],
        taken: Collection[str] = (),
        defaults: Callable[[], dict] | None = None,
    ) -> None:
        if not isinstance(configs, dict):
            raise TypeError(f'{key} must be a dict of name to dict(type=...), got {configs!r}')
        for name, cfg in configs.items():
            _check_name(key, name, taken)
            if cfg is not None:
                _check_config(f'{key}.{name}', cfg, base)
        wanted = {name: cfg for name, cfg in configs.items() if cfg is not None}
        arguments = defaults() if wanted and defaults is not None else {}
        super().__init__(
            {name: MODELS.build(cfg, default_args=arguments) for name, cfg in wanted.items()}
        )


def _check_name(key: str, name: Any, taken: Collection[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier() or 'loss' in name or name in taken:
        others = f' that no other loss has ({", ".join(taken)} are taken)' if taken else ''
        raise ValueError(
            f'the names in {key} must be Python identifiers without "loss" in them{others}, '
            f'got {name!r}: it becomes loss_<name> in the log, and mmengine adds up every '
            'value that has "loss" in its name'
        )


def _check_config(where: str, cfg: Any, base: type[nn.Module]) -> None:
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(f'{where} must be a dict(type=...), got {cfg!r}')
    kind = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, base)):
        raise TypeError(f'{where}: {cfg["type"]!r} is no {base.__name__}')
