"""Let ``torch.load(weights_only=True)`` read what checkpoints hold beyond tensors.

mmengine puts its log history into every checkpoint: ``HistoryBuffer`` objects, which pickle numpy
arrays, numpy scalars and their own methods (through ``builtins.getattr``). Allowing those names as
they are would open the door again: ``numpy.ndarray`` builds an object array over bytes of a file,
``numpy.dtype`` lets a file forge its flags or change the byte order of every float in the process,
and ``getattr`` leads anywhere. So each name is served by a stand-in that accepts what mmengine and
numpy write, checks it, and refuses all else with a ValueError.

timm's, torchvision's and many other scripts save their ``argparse.Namespace``, with paths, dates
and default dicts in it. These are plain data, but classes by the way in which pickle writes them,
and are served by stand-ins as well.
"""

from __future__ import annotations

import argparse
import datetime
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

HISTORY_METHODS = ('min', 'max', 'current', 'mean')
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

    Not an ``UnpicklingError``: ``torch.load`` would add the advice to try again without the
    protection.
    """
    return ValueError(
        f'refused to read this checkpoint: expected {expected}, it holds {got!r}. '
        'Neither mmengine nor Python writes that; the file is damaged or was made to do harm.'
    )


class PlainDtype:
    """Stand-in for ``numpy.dtype``: booleans, numbers and strings, no objects, no records."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        # numpy writes kind and item size, and parses far more than that out of a string.
        if type(code) is not str or code[:1] not in 'biufcUS' or not code[1:].isdigit():
            raise refuse('a plain numpy type such as "f8"', code)
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        plain = type(state) is tuple and len(state) == 8 and state[2:5] == (None, None, None)
        if not plain or state[1] not in ('<', '>', '|'):
            raise refuse('the byte order of a plain numpy type', state)
        self.dtype = self.dtype.newbyteorder(state[1])

    def __repr__(self) -> str:
        return f'PlainDtype({self.dtype.str!r})'


class CheckpointArray(np.ndarray):
    """Stand-in for ``numpy.ndarray``: an array that can be filled with plain data only.

    Whatever is computed from it, and what it is saved as again, is an ordinary array.
    """

    # Let ordinary arrays decide the type of what np.concatenate and np.append return.
    __array_priority__ = -1.0

    def __new__(cls, *args: Any) -> CheckpointArray:
        """Refuse to build an array other than by :func:`reconstruct`."""
        raise refuse('an array built by numpy.core.multiarray._reconstruct', args)

    def __setstate__(self, state: tuple) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise refuse('the five parts of a numpy array', state)
        version, shape, dtype, fortran_order, data = state
        if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
            raise refuse('the shape of a numpy array', shape)
        if type(dtype) is not PlainDtype or type(data) is not bytes:
            raise refuse('a numpy array of plain data', (dtype, type(data)))
        super().__setstate__((version, shape, dtype.dtype, bool(fortran_order), data))

    def __array_wrap__(self, array: np.ndarray, context: Any = None, scalar: bool = False) -> Any:
        plain = array.view(np.ndarray)
        return plain[()] if plain.ndim == 0 else plain

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def reconstruct(cls: type, shape: tuple, kind: bytes) -> CheckpointArray:
    """Stand in for ``numpy.core.multiarray._reconstruct``: an empty array, filled later."""
    if cls is not CheckpointArray or shape != (0,) or kind != b'b':
        raise refuse('an empty numpy.ndarray to fill', (cls, shape, kind))
    return np.empty((0,), 'b').view(CheckpointArray)


def scalar(dtype: PlainDtype, data: bytes) -> np.generic:
    """Stand in for ``numpy.core.multiarray.scalar``: one plain number or string."""
    if type(dtype) is not PlainDtype or type(data) is not bytes:
        raise refuse('one plain numpy number', (dtype, type(data)))
    if len(data) != dtype.dtype.itemsize:
        raise refuse(f'{dtype.dtype.itemsize} bytes for one {dtype.dtype.name}', len(data))
    return np.ndarray((), dtype.dtype, data)[()]


class CheckpointHistory(HistoryBuffer):
    """Stand-in for mmengine's ``HistoryBuffer``, which becomes one once its state is checked."""

    def __new__(cls, *args: Any) -> CheckpointHistory:
        """Make an empty history; refuse arguments."""
        if args:
            raise refuse('a HistoryBuffer without arguments', args)
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        raise refuse('a HistoryBuffer that is filled from its saved state', args)

    def __setstate__(self, state: dict) -> None:
        arrays = ('_log_history', '_count_history')
        fields = {'max_length', 'statistics_methods', *arrays}
        if type(state) is not dict or set(state) != fields:
            raise refuse(f'a HistoryBuffer of {sorted(fields)}', state)
        if any(type(state[name]) is not CheckpointArray for name in arrays):
            raise refuse('the numpy arrays of a HistoryBuffer', [state[name] for name in arrays])
        if type(state['max_length']) is not int or type(state['statistics_methods']) is not dict:
            raise refuse('the settings of a HistoryBuffer', state)
        self._set_default_statistics()
        for name, method in state['statistics_methods'].items():
            # The original puts whatever it finds there into the class, for every other buffer too.
            if self._statistics_methods.get(name) is not method:
                raise refuse('the registered statistics of a HistoryBuffer', (name, method))
        self.__class__ = HistoryBuffer
        for name in arrays:
            setattr(self, name, np.array(state[name]))
        self.max_length = state['max_length']


def empty_bytes(*args: Any) -> bytes:
    """Stand in for ``builtins.bytes``, by which pickle writes ``b''``: an empty array's data."""
    if args:
        raise refuse('bytes without arguments', args)
    return b''


def history_method(cls: type, name: str) -> Callable:
    """Stand in for ``builtins.getattr``: serve only HistoryBuffer's four statistics."""
    if cls is not CheckpointHistory or type(name) is not str or name not in HISTORY_METHODS:
        raise refuse(f'one of {HISTORY_METHODS} of HistoryBuffer', (cls, name))
    return getattr(HistoryBuffer, name)


class PlainNamespace(argparse.Namespace):
    """Stand-in for ``argparse.Namespace``, which becomes one once its attributes are checked."""

    def __new__(cls, *args: Any) -> PlainNamespace:
        """Make an empty namespace; refuse arguments."""
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
        """Stand in for a class of ``pathlib``: a path that can't touch the disk."""
        if not all(type(part) is str for part in parts):
            raise refuse('the parts of a path', parts)
        return _PATHS[name](*parts)

    return path


def _date(name: str) -> Callable[..., Any]:
    def date(*args: Any) -> Any:
        """Stand in for a class of ``datetime``."""
        zone = (datetime.timedelta, datetime.timezone)
        if not all(type(arg) in (int, bytes) or isinstance(arg, zone) for arg in args):
            raise refuse(f'the bytes of a {name}', args)
        return getattr(datetime, name)(*args)

    return date


def default_dict(*args: Any) -> dict:
    """Stand in for ``collections.defaultdict``: an ordinary dict, filled later."""
    return {}


def factory(*args: Any) -> None:
    """Stand in for the types that make a default dict's values, and make nothing."""
    raise refuse('a type as the factory of a defaultdict', args)


def safe_globals() -> list[tuple[Callable, str]]:
    """Return the stand-ins and the names they serve, as ``add_safe_globals`` of torch takes them.

    Checkpoints written under numpy 1 say ``numpy.core`` where numpy 2 says ``numpy._core``, those
    of Python 3.13 ``pathlib._local`` where others say ``pathlib``.
    """
    stand_ins = [
        (CheckpointHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (history_method, 'builtins.getattr'),
        (CheckpointArray, 'numpy.ndarray'),
        (PlainDtype, 'numpy.dtype'),
        (empty_bytes, 'builtins.bytes'),
        (PlainNamespace, 'argparse.Namespace'),
        (default_dict, 'collections.defaultdict'),
    ]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        stand_ins += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    stand_ins += [(factory, f'builtins.{name}') for name in ('int', 'float', 'list', 'dict', 'str')]
    stand_ins += [
        (_date(name), f'datetime.{name}')
        for name in ('datetime', 'date', 'time', 'timedelta', 'timezone')
    ]
    for module in ('pathlib', 'pathlib._local'):
        stand_ins += [(_path(name), f'{module}.{name}') for name in _PATHS]
    return stand_ins


_scope = threading.RLock()


@contextmanager
def checkpoint_globals(trusted: list[tuple[Callable, str]] | None = None) -> Iterator[None]:
    """Let checkpoints of mmengine and plain data through ``torch.load(weights_only=True)``.

    Inside, the stand-ins alone serve their names, whatever else has been registered under them:
    torch keeps a set, in which one of two entries of the same name wins by chance. Other entries
    count as before. At the end everything is as it was.

    Args:
        trusted: Objects of the user's choice with the names they serve. Defaults to None.
    """
    ours = [*safe_globals(), *(trusted or [])]
    served = {name for _, name in ours}
    with _scope:
        before = get_safe_globals()
        clear_safe_globals()
        add_safe_globals([*ours, *(entry for entry in before if _name(entry) not in served)])
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(before)


def _name(entry: Any) -> str:
    if isinstance(entry, tuple):
        return entry[1]
    return f'{entry.__module__}.{entry.__qualname__}'
