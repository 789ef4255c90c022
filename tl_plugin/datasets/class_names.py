"""Compare names of classes, and find likely matches."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable


def canonical(name: str) -> str:
    r"""Return the composed Unicode form: systems store ``é`` as one character or as two.

    Example:
        >>> canonical('cafe\u0301') == canonical('caf\u00e9')
        True
    """
    return unicodedata.normalize('NFC', name)


def folded(name: str) -> str:
    """Return a name without case, white space, ``_``, ``-`` and leading zeros.

    Example:
        >>> folded(' Tabby-Cat') == folded('tabby_cat'), folded('01') == folded('1.0')
        (True, True)
    """
    if re.fullmatch(r'\s*\d+(\.0*)?\s*', name):
        return str(int(float(name)))
    return re.sub(r'[\s_-]+', '', unicodedata.normalize('NFKC', name).casefold()) or name


def likely_matches(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Find names that differ from a known one in case, white space, Unicode form or ``_- `` alone.

    Args:
        names: Names that may be spelled differently.
        known: The names to search.

    Returns:
        Name -> the known name that it probably means, for those that aren't known as they are.

    Example:
        >>> likely_matches(['circle', 'Line', 'square ', 'oval'], ['circle', 'line', 'square'])
        {'Line': 'line', 'square ': 'square'}
    """
    by_folded = {folded(name): name for name in known}
    return {
        name: by_folded[folded(name)]
        for name in names
        if name not in known and folded(name) in by_folded
    }


def closest_names(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Find the known name that is most similar to each name, if any is similar.

    Example:
        >>> closest_names(['sqare', 'oval'], ['circle', 'square'])
        {'sqare': 'square'}
    """
    by_folded = {folded(name): name for name in known}
    found = {}
    for name in names:
        close = difflib.get_close_matches(folded(name), by_folded, 1)
        if close:
            found[name] = by_folded[close[0]]
    return found


def describe_matches(matches: dict[str, str]) -> str:
    r"""Describe pairs so that their difference is visible, also where both look the same.

    Example:
        >>> print(describe_matches({'cafe\u0301': 'caf\u00e9', 'square ': 'square'}))
        'cafe\u0301' is 'caf\xe9' in another Unicode form, 'square ' is 'square'
    """
    return ', '.join(
        f'{name!a} is {other!a} in another Unicode form'
        if canonical(name) == canonical(other)
        else f'{name!r} is {other!r}'
        for name, other in matches.items()
    )
