"""Checks what configs give to components against the types that these declare."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from mmengine.config.lazy import LazyAttr, LazyObject


def type_name(config: Any) -> str:
    """Give the bare name of the class that a config asks for, however it does.

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
    """Makes an ``__init__`` refuse arguments of other types than it declares.

    A config's values come from people, and Python compares and tests most of them without a word:
    ``'no'`` is true, and no limit is below NaN.

    Args:
        init: Of a module with ``from __future__ import annotations``. Checked are numbers, texts,
            booleans, sequences, dicts and None; what has another declared type passes.

    Returns:
        The method with the checks before it. It raises a TypeError, or a ValueError for a number
        that isn't finite, with the component, the argument, its type and what came.

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
            given = {}  # Python says itself what is missing or unknown
        for name, value in given.items():
            if name in declared:
                check_option(type(self).__name__, name, value, declared[name])
        init(self, *args, **kwargs)

    return wrapped


def check_option(owner: str, name: str, value: Any, declared: str) -> None:
    """Refuses a value of another type than declared.

    Args:
        owner: Whose option it is, for the message.
        name: The option.
        value: What came.
        declared: The type, as written in an annotation: ``'Sequence[int] | None'``.

    Raises:
        TypeError: If it is of another type.
        ValueError: If it is a number that isn't finite.
    """
    if not _fits(value, declared):
        raise TypeError(f'{owner}: {name} must be {declared}, got {value!r}')
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f'{owner}: {name} must be a finite number, got {value!r}')


def _fits(value: Any, declared: str) -> bool:
    kinds = _split(declared, '|')
    return any(_is(value, *_head(kind)) for kind in kinds)


def _is(value: Any, kind: str, inner: list[str]) -> bool:
    if kind == 'None':
        return value is None
    if kind == 'bool':
        return isinstance(value, int) and value in (0, 1)
    if kind in ('int', 'float'):
        number = Integral if kind == 'int' else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind == 'str':
        return isinstance(value, str)
    if kind in ('dict', 'Mapping'):
        values = value.values() if isinstance(value, Mapping) else [None]
        return isinstance(value, Mapping) and (
            len(inner) < 2 or all(_fits(item, inner[1]) for item in values)
        )
    if kind in ('list', 'Sequence'):
        return isinstance(value, (list, tuple)) and (
            not inner or all(_fits(item, inner[0]) for item in value)
        )
    return True  # a type of which this module knows nothing


def _head(kind: str) -> tuple[str, list[str]]:
    name, bracket, rest = kind.partition('[')
    return name.strip(), _split(rest.strip()[:-1], ',') if bracket else []


def _split(text: str, separator: str) -> list[str]:
    """Splits at what stands outside brackets."""
    parts, depth = [''], 0
    for letter in text:
        depth += (letter == '[') - (letter == ']')
        if letter == separator and not depth:
            parts.append('')
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
