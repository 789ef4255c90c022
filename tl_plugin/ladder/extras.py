"""Extras: what is worth having of a finished run, and never worth losing it for."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from mmengine.logging import print_log


def attempt(what: str, make: Callable[[], Any], left_out: dict[str, str]) -> Any:
    """Make an extra, or leave it out and say why.

    Args:
        what: Name of the extra.
        make: Makes it.
        left_out: Gets ``what`` -> the error, where making it fails.

    Returns:
        What ``make`` returns; None where it fails.

    Example:
        >>> left_out = {}
        >>> attempt('half', lambda: 1 / 2, left_out), left_out
        (0.5, {})
    """
    try:
        return make()
    except Exception as error:  # whatever it is: the result stands
        left_out[what] = f'{type(error).__name__}: {error}'
        print_log(
            f'Left out: {what}, for {left_out[what]}\n{traceback.format_exc()}',
            logger='current',
            level=logging.WARNING,
        )
        return None
