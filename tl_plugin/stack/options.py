"""Check the options of components against the types that these declare."""

from __future__ import annotations

import ast
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject


def type_name(config: Any) -> str:
    """Return the bare name of the class that a config names, in whatever form.

    Args:
        config: A component's config, a value of its ``type``, or a component that is built.

    Returns:
        ``'DANNHead'`` for ``'DANNHead'``, ``'mmpretrain.DANNHead'``, a dotted path and the class
        itself; ``''`` where a config has no type.

    Example:
        >>> from collections import OrderedDict
        >>> type_name(dict(type='mmpretrain.LinearClsHead')), type_name(dict(type=OrderedDict))
        ('LinearClsHead', 'OrderedDict')
    """
    kind = config.get('type') if isinstance(config, Mapping) else config
    if kind is None:
        return ''
    if isinstance(kind, (LazyObject, LazyAttr)):
        kind = str(kind)  # of a pure-Python config, where nothing is imported yet
    if isinstance(kind, str):
        return kind.rsplit('.', 1)[-1]
    return getattr(kind, '__name__', type(kind).__name__)


def checked(init: Callable) -> Callable:
    """Make an ``__init__`` refuse arguments of other types than it declares.

    Python compares and tests most wrong values of a config silently: ``'no'`` is true, and no
    limit is below NaN.

    Args:
        init: The method, in a module with ``from __future__ import annotations``. Checked are
            numbers, strings, booleans, sequences, dicts and None; other declared types pass.

    Returns:
        The method with the checks before it. It raises a TypeError, or a ValueError for a number
        that isn't finite, with the component, the argument, its type and its value.

    Example:
        >>> class Loss:
        ...     @checked
        ...     def __init__(self, weight: float = 1.0, norm: str | None = None) -> None:
        ...         pass
        >>> _ = Loss(2, norm='BN')
        >>> Loss(weight='2')
        Traceback (most recent call last):
        ...
        TypeError: Loss: weight must be float, got '2'
    """
    signature = inspect.signature(init)
    declared = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, str) and parameter.kind != parameter.VAR_KEYWORD
    }

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs).arguments
        except TypeError:
            given = {}  # Python reports what is missing or unknown
        for name, value in given.items():
            if name in declared:
                check_option(type(self).__name__, name, value, declared[name])
        init(self, *args, **kwargs)

    return wrapped


def check_option(owner: str, name: str, value: Any, declared: str) -> None:
    """Refuse a value of another type than declared.

    Args:
        owner: The component that has the option, for the message.
        name: The option.
        value: Its value.
        declared: The type, as written in an annotation: ``'Sequence[int] | None'``.

    Raises:
        TypeError: If it is of another type.
        ValueError: If it is a number that isn't finite.
    """
    if not _fits(value, _parse(declared)):
        raise TypeError(f'{owner}: {name} must be {declared}, got {value!r}')
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{owner}: {name} must be a finite number, got {value!r}')


@functools.cache
def _parse(declared: str) -> ast.expr:
    return ast.parse(declared, mode='eval').body


def _fits(value: Any, kind: ast.expr) -> bool:
    if isinstance(kind, ast.BinOp):
        return _fits(value, kind.left) or _fits(value, kind.right)
    inner = []
    if isinstance(kind, ast.Subscript):
        inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        kind = kind.value
    name = ast.unparse(kind)
    if name == 'None':
        return value is None
    if name == 'bool':
        return isinstance(value, int) and value in (0, 1)
    if name in ('int', 'float'):
        number = Integral if name == 'int' else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if name == 'str':
        return isinstance(value, str)
    if name in ('dict', 'Mapping'):
        return isinstance(value, Mapping) and (
            len(inner) < 2 or all(_fits(item, inner[1]) for item in value.values())
        )
    if name in ('list', 'Sequence'):
        return isinstance(value, (list, tuple)) and (
            not inner or all(_fits(item, inner[0]) for item in value)
        )
    return True  # another type is not checked
