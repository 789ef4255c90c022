"""What training scripts put beside the weights, let through ``torch.load(weights_only=True)``.

timm's, torchvision's and many other scripts save their ``argparse.Namespace``, with paths, dates
and default dicts in it. These are plain data, but classes by the way in which pickle writes them.
As in :mod:`tl_plugin.stack.safe_globals`, each name is served by a stand-in that takes what pickle
writes for plain data and refuses everything else.
"""

from __future__ import annotations

import argparse
import datetime
from collections import Counter, OrderedDict
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Callable

import numpy as np
import torch

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    PurePath,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    torch.Tensor,
    torch.device,
    torch.dtype,
    torch.Size,
    torch.layout,
    np.ndarray,
    np.generic,
)
_PATHS = {'PosixPath': PurePosixPath, 'WindowsPath': PureWindowsPath}
_PATHS.update({f'Pure{name}': kind for name, kind in _PATHS.items()})


def refuse(expected: str, got: Any) -> ValueError:
    """Make the error of a stand-in.

    ``torch.load`` would adorn an ``UnpicklingError`` with the advice to try again without the
    protection.
    """
    return ValueError(
        f'refused to read this checkpoint: expected {expected}, it holds {got!r}. '
        'Neither mmengine nor Python writes that; the file is damaged or was made to do harm.'
    )


class PlainNamespace(argparse.Namespace):
    """Stands in for ``argparse.Namespace`` and turns into one once its attributes are checked."""

    def __new__(cls, *args: Any) -> PlainNamespace:
        if args:
            raise refuse('a Namespace without arguments', args)
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: dict) -> None:
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise refuse('the attributes of a Namespace by name', state)
        for name, value in state.items():
            if not _is_plain(value):
                raise refuse(f'plain data in the Namespace, as {name}', value)
        self.__class__ = argparse.Namespace
        self.__dict__.update(state)


def _is_plain(value: Any) -> bool:
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in (list, tuple, set, frozenset):
            pending += value
        elif type(value) in (dict, OrderedDict, Counter):
            pending += [*value, *value.values()]
        elif type(value) is argparse.Namespace:
            pending += vars(value).values()
        elif not isinstance(value, _PLAIN):
            return False
    return True


def _path(name: str) -> Callable[..., PurePath]:
    def path(*parts: str) -> PurePath:
        """Stands in for a class of ``pathlib``: a path that can't touch the disk."""
        if not all(type(part) is str for part in parts):
            raise refuse('the parts of a path', parts)
        return _PATHS[name](*parts)

    return path


def _date(name: str) -> Callable[..., Any]:
    def date(*args: Any) -> Any:
        """Stands in for a class of ``datetime``."""
        zone = (datetime.timedelta, datetime.timezone)
        if not all(type(arg) in (int, bytes) or isinstance(arg, zone) for arg in args):
            raise refuse(f'the bytes of a {name}', args)
        return getattr(datetime, name)(*args)

    return date


def default_dict(*args: Any) -> dict:
    """Stands in for ``collections.defaultdict``: an ordinary dict, filled later."""
    return {}


def factory(*args: Any) -> None:
    """Stands in for the types that make a default dict's values, and makes nothing."""
    raise refuse('a type as the factory of a defaultdict', args)


def plain_globals() -> list[tuple[Callable, str]]:
    """The stand-ins with the names they serve, as ``torch.serialization.add_safe_globals`` takes
    them. Python 3.13 writes ``pathlib._local`` where others say ``pathlib``.
    """
    stand_ins = [(PlainNamespace, 'argparse.Namespace'), (default_dict, 'collections.defaultdict')]
    stand_ins += [(factory, f'builtins.{name}') for name in ('int', 'float', 'list', 'dict', 'str')]
    stand_ins += [
        (_date(name), f'datetime.{name}')
        for name in ('datetime', 'date', 'time', 'timedelta', 'timezone')
    ]
    for module in ('pathlib', 'pathlib._local'):
        stand_ins += [(_path(name), f'{module}.{name}') for name in _PATHS]
    return stand_ins
