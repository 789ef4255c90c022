"""Hashes of values by content: equal values have equal hashes in every process."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import os
import random
import re
import types
from collections.abc import Iterable, Mapping, Set
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice, np.generic, np.dtype)
_NAMED = (PurePath, re.Pattern, torch.dtype, torch.device)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)
# Their state changes with use and decides nothing about the output.
_OPAQUE = (
    random.Random,
    np.random.RandomState,
    np.random.Generator,
    torch.Generator,
    types.ModuleType,
    types.GeneratorType,
)


def fingerprint(*values: Any) -> str:
    """Hash values by content: numbers, arrays, containers, objects with their attributes.

    Two processes agree, whatever their order of sets or the addresses of their objects. An object
    counts with its class, the file that the class stands in, and its attributes.

    Args:
        *values: Anything.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> fingerprint({'a': 1, 'b': {2, 3}}) == fingerprint({'b': {3, 2}, 'a': 1})
        True
        >>> fingerprint([1]) == fingerprint([1.0])
        False
    """
    digest = _Digest()
    for value in values:
        digest.add(value)
    return digest.hash.hexdigest()


def files_fingerprint(dataset: Any) -> str:
    """Hash size and time of change of all image files that a data set names.

    Args:
        dataset: Any data set; one that names no local files is hashed without them.
    """
    describe = getattr(dataset, 'get_data_info', None)
    digest = _Digest()
    for index in range(len(dataset) if callable(describe) else 0):
        try:
            path = describe(index)['img_path']
        except (KeyError, TypeError, NotImplementedError):
            break
        try:
            found = os.stat(path)
        except (OSError, TypeError, ValueError):
            digest.add((path, None))  # not there, or not local
        else:
            digest.add((path, found.st_size, found.st_mtime_ns))
    return digest.hash.hexdigest()


class _Digest:
    """Feeds a hash with values, each preceded by what kind it is."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)
        self._around: list[int] = []

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._text(type(value).__name__, repr(value))
        elif isinstance(value, _NAMED):
            self._text(type(value).__name__, str(value))
        elif isinstance(value, (Tensor, np.ndarray)):
            self._array(value)
        elif isinstance(value, enum.Enum):
            self._text(type(value).__qualname__, value.name)
        elif isinstance(value, _CODE):
            self._code(value)
        elif isinstance(value, _OPAQUE):
            self._text('opaque', type(value).__qualname__)
        elif id(value) in self._around:
            self._text('cycle', str(self._around[::-1].index(id(value))))
        else:
            self._around.append(id(value))
            self._compound(value)
            self._around.pop()

    def _compound(self, value: Any) -> None:
        if isinstance(value, Mapping):
            self._unordered('mapping', value.items())
        elif isinstance(value, Set):
            self._unordered('set', value)
        elif isinstance(value, (list, tuple)):
            self._ordered('sequence', value)
        elif isinstance(value, functools.partial):
            self._ordered('partial', (value.func, value.args, value.keywords))
        elif isinstance(value, types.MethodType):
            self._ordered('method', (value.__func__, value.__self__))
        else:
            self._object(value)

    def _text(self, *parts: str) -> None:
        for part in parts:
            data = part.encode('utf-8', 'surrogatepass')
            self.hash.update(f'{len(data)}:'.encode() + data)

    def _array(self, value: Tensor | np.ndarray) -> None:
        if isinstance(value, np.ndarray) and value.dtype == object:
            self._ordered('objects', value.tolist())
            return
        self._text('array', str(value.dtype), str(tuple(value.shape)))
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self.hash.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _code(self, value: Any) -> None:
        self._text('code', value.__module__ or '' if hasattr(value, '__module__') else '')
        self._text(getattr(value, '__qualname__', value.__name__), _source_of(value))

    def _ordered(self, kind: str, values: Iterable) -> None:
        values = list(values)
        self._text(kind, str(len(values)))
        for value in values:
            self.add(value)

    def _unordered(self, kind: str, values: Iterable) -> None:
        # Each alone, so that they can be put into an order that all processes agree on.
        self._text(kind, *sorted(self._alone(value) for value in values))

    def _alone(self, value: Any) -> str:
        digest = _Digest()
        digest._around = self._around
        digest.add(value)
        return digest.hash.hexdigest()

    def _object(self, value: Any) -> None:
        self._code(type(value))
        if hasattr(value, '__dict__') and not hasattr(type(value), '__slots__'):
            self.add(dict(vars(value)))
            return
        try:
            parts = value.__reduce_ex__(2)
        except TypeError:  # a lock, a file: nothing that outputs depend on
            return
        self.add(parts if isinstance(parts, str) else tuple(parts[1:3]))


def _source_of(value: Any) -> str:
    try:
        path = inspect.getsourcefile(value)
    except TypeError:  # written in C
        return ''
    return _file_hash(path) if path and Path(path).is_file() else ''


@functools.cache
def _file_hash(path: str) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
