"""Parse selections of layers and parameter names, with errors that name what would fit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Union

LayerSpec = Union[int, str, slice, Sequence[Union[int, str, slice]]]


def parse_depths(layers: LayerSpec, num_layers: int) -> list[int]:
    """Turn a depth, a slice as text or a list of these into depths.

    Args:
        layers: ``3``, ``-1``, ``'3'``, ``':-1'``, ``'0:4'``, ``'::2'``, a slice, or a list of
            these. Negative values count from the head.
        num_layers: How many layers there are.

    Returns:
        The selected depths, sorted.

    Raises:
        ValueError: If it can't be read, lies outside the model or selects nothing.

    Example:
        >>> parse_depths(':-1', 4)
        [0, 1, 2]
        >>> parse_depths([0, '-2:'], 4)
        [0, 2, 3]
    """
    valid = f'Valid depths are 0 (stem) to {num_layers - 1} (head), or -{num_layers} to -1.'
    if isinstance(layers, (list, tuple)):
        if not layers:
            raise ValueError(f'layers={layers!r} selects no layer. {valid}')
        return sorted({depth for item in layers for depth in parse_depths(item, num_layers)})
    bounds = _bounds(layers)
    outside = [b for b in bounds[:2] if b is not None and not -num_layers <= b <= num_layers]
    if len(bounds) == 1:
        outside = [b for b in bounds if not -num_layers <= b < num_layers]
    if outside:
        raise ValueError(
            f'layers={layers!r} asks for depth {outside[0]}, but the model has '
            f'{num_layers} layers. {valid}'
        )
    depths = range(num_layers)
    chosen = [depths[bounds[0]]] if len(bounds) == 1 else list(depths[slice(*bounds)])
    if not chosen:
        raise ValueError(f'layers={layers!r} selects no layer of {num_layers}. {valid}')
    return sorted(chosen)


def _bounds(layers) -> list[int | None]:
    """Read one number, or start, stop and step."""
    if isinstance(layers, int) and not isinstance(layers, bool):
        return [layers]
    if isinstance(layers, slice):
        bounds = [layers.start, layers.stop, layers.step]
        if not all(bound is None or type(bound) is int for bound in bounds):
            bounds = []
    else:
        parts = layers.split(':') if isinstance(layers, str) else []
        readable = all(re.fullmatch(r'\s*(-?\d{1,9})?\s*', part) for part in parts)
        bounds = [int(p) if p.strip() else None for p in parts] if readable else []
    if not 1 <= len(bounds) <= 3 or bounds == [None] or bounds[2:] == [0]:
        raise ValueError(
            f"layers={layers!r} can't be read. Write a depth (3, -1), a slice in "
            "quotes (':-1', '0:4') or a list of these."
        )
    return bounds


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Find the names in which a regular expression is found.

    Args:
        pattern: The expression, searched for anywhere in a name.
        names: The names to search.

    Returns:
        The matching names, in the order given.

    Raises:
        ValueError: If it isn't a regular expression, or if nothing matches; the message lists
            the nearest names.
    """
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f'{pattern!r} is no pattern: expected a regular expression over names.')
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f'{pattern!r} is no regular expression: {error}.') from error
    found = [name for name in names if expression.search(name)]
    if not found:
        raise ValueError(
            f'The pattern {pattern!r} matches no parameter. {nearest_names(pattern, names)}'
        )
    return found


def nearest_names(wanted: str, names: Iterable[str], count: int = 5) -> str:
    """Say which known names come nearest to an unknown one.

    Args:
        wanted: The unknown name or pattern.
        names: The known names.
        count: How many to list at most. Defaults to 5.

    Returns:
        A sentence for an error message.
    """
    names = list(names)
    # A wanted name is often a prefix: 'backbone.layr1' means 'backbone.layer1'.
    pieces = wanted.replace('\\', '').strip('^$').split('.')
    prefixes = dict.fromkeys('.'.join(name.split('.')[: len(pieces)]) for name in names)
    wanted = '.'.join(pieces)
    close = difflib.get_close_matches(wanted, [*names, *prefixes], count)
    if not close:
        tops = dict.fromkeys(name.split('.')[0] for name in names)
        return f'Known names begin with: {", ".join([*tops][: 2 * count])}.'
    return f'Nearest: {", ".join(dict.fromkeys(close))}.'
