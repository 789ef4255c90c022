"""What mmengine's checkpoints hold beyond tensors, let through ``torch.load(weights_only=True)``.

mmengine puts its log history into every checkpoint: ``HistoryBuffer`` objects, which pickle numpy
arrays, numpy scalars and their own methods (through ``builtins.getattr``). Allowing those names as
they are would open the door again: ``numpy.ndarray`` builds an object array over bytes of a file,
``numpy.dtype`` lets a file forge its flags or change the byte order of every float in the process,
and ``getattr`` leads anywhere. So each name is served by a stand-in that accepts what mmengine and
numpy write, checks it, and refuses all else with a ValueError. (``torch.load`` would adorn an
``UnpicklingError`` with the advice to try again without the protection.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import numpy as np
from mmengine.logging import HistoryBuffer
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from .plain_globals import plain_globals, refuse

HISTORY_METHODS = ('min', 'max', 'current', 'mean')


class PlainDtype:
    """Stands in for ``numpy.dtype``: booleans, numbers and strings, no objects, no records."""

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
    """Stands in for ``numpy.ndarray``: an array that can be filled with plain data only.

    Whatever is computed from it, and what it is saved as again, is an ordinary array.
    """

    # Lets ordinary arrays decide the type of what np.concatenate and np.append return.
    __array_priority__ = -1.0

    def __new__(cls, *args: Any) -> CheckpointArray:
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
    """Stands in for ``numpy.core.multiarray._reconstruct``: an empty array, filled later."""
    if cls is not CheckpointArray or shape != (0,) or kind != b'b':
        raise refuse('an empty numpy.ndarray to fill', (cls, shape, kind))
    return np.empty((0,), 'b').view(CheckpointArray)


def scalar(dtype: PlainDtype, data: bytes) -> np.generic:
    """Stands in for ``numpy.core.multiarray.scalar``: one plain number or string."""
    if type(dtype) is not PlainDtype or type(data) is not bytes:
        raise refuse('one plain numpy number', (dtype, type(data)))
    if len(data) != dtype.dtype.itemsize:
        raise refuse(f'{dtype.dtype.itemsize} bytes for one {dtype.dtype.name}', len(data))
    return np.ndarray((), dtype.dtype, data)[()]


class CheckpointHistory(HistoryBuffer):
    """Stands in for mmengine's ``HistoryBuffer`` and turns into one once its state is checked."""

    def __new__(cls, *args: Any) -> CheckpointHistory:
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
    """Stands in for ``builtins.bytes``, by which pickle writes ``b''``: an empty array's data."""
    if args:
        raise refuse('bytes without arguments', args)
    return b''


def history_method(cls: type, name: str) -> Callable:
    """Stands in for ``builtins.getattr``: serves HistoryBuffer's four statistics alone."""
    if cls is not CheckpointHistory or type(name) is not str or name not in HISTORY_METHODS:
        raise refuse(f'one of {HISTORY_METHODS} of HistoryBuffer', (cls, name))
    return getattr(HistoryBuffer, name)


def safe_globals() -> list[tuple[Callable, str]]:
    """The stand-ins with the names they serve, as ``torch.serialization.add_safe_globals`` takes
    them, those for plain data of other scripts included. Checkpoints written under numpy 1 say
    ``numpy.core`` where numpy 2 says ``numpy._core``.
    """
    stand_ins = [
        (CheckpointHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (history_method, 'builtins.getattr'),
        (CheckpointArray, 'numpy.ndarray'),
        (PlainDtype, 'numpy.dtype'),
        (empty_bytes, 'builtins.bytes'),
    ]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        stand_ins += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    return stand_ins + plain_globals()


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
