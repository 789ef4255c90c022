"""Make configs whose types are classes readable again after they are written to a file."""

from __future__ import annotations

import copy
import importlib
import inspect
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyObject


def importable(cfg: Config) -> Config:
    """Copy a config so that it remembers where its classes and functions are imported from.

    mmengine reads a pure-Python config without importing what it names, and dumps it by dotted
    names. Once a class itself stands in a config, as after ``dict(cfg.model)`` or in a config made
    in Python, the dump holds ``<class ...>``, which no one can read.

    Args:
        cfg: A config. It isn't changed.

    Returns:
        A copy that builds the same components and is dumped by names. What can't be imported by
        a name, such as a lambda, stays as it is.

    Example:
        >>> from collections import OrderedDict
        >>> importable(Config(dict(model=dict(type=OrderedDict)))).to_dict()
        {'model': {'type': 'collections.OrderedDict'}}
    """
    copied = copy.copy(cfg)
    object.__setattr__(copied, '_cfg_dict', _importable(cfg._cfg_dict))
    return copied


def _importable(value: Any) -> Any:
    if isinstance(value, dict):
        # `dict.items` leaves what isn't imported yet as it is.
        return ConfigDict((key, _lazy(item)) for key, item in dict.items(value))
    if isinstance(value, (list, tuple)):
        return type(value)(_importable(item) for item in value)
    return value


def _lazy(value: Any) -> Any:
    if inspect.isclass(value) or inspect.isfunction(value) or inspect.isbuiltin(value):
        module, name = value.__module__, value.__qualname__
        try:
            found = getattr(importlib.import_module(module), name, None)
        except (ImportError, AttributeError, ValueError):
            found = None
        return LazyObject(module, name) if found is value else value
    return _importable(value)
