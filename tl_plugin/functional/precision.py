from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


def full_precision(function: Callable) -> Callable:
    """Make a function compute in float32 or better, under automatic mixed precision too.

    Squared distances, covariances and eigenvalues overflow or lose their digits in half precision.
    Widening the inputs isn't enough, since autocast narrows them again before every matrix product.

    Args:
        function: Takes tensors, bare or in lists and tuples. Half-precision ones are converted to
            float32, all other arguments pass unchanged.

    Returns:
        The function, with autocast switched off inside. It raises a ``TypeError`` where it gets no
        tensor at all.

    Example:
        >>> square = full_precision(lambda x: x @ x.T)
        >>> square(torch.full((1, 1), 300.0, dtype=torch.float16))  # half precision ends at 65504
        tensor([[90000.]])
    """

    @functools.wraps(function)
    def widened(*args: Any, **kwargs: Any) -> Any:
        leaves = tree_flatten((args, kwargs))[0]
        devices = [leaf.device.type for leaf in leaves if isinstance(leaf, Tensor)]
        if not devices:
            kinds = ', '.join(type(leaf).__name__ for leaf in leaves)
            raise TypeError(f'{function.__name__} takes tensors, got {kinds or "nothing"}')
        args, kwargs = tree_map(_widen, (args, kwargs))
        with torch.autocast(devices[0], enabled=False):
            return function(*args, **kwargs)

    return widened


def _widen(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def check_images(what: str, minimum: int = 1, **domains: Tensor) -> None:
    """Raise an error for batches that have too few images.

    Args:
        what: The loss that needs them, for the message.
        minimum: How many images each domain must have. Defaults to 1.
        **domains: One row an image, by the name of the domain.

    Raises:
        ValueError: If a domain has fewer.

    Example:
        >>> import torch
        >>> check_images('a loss', source=torch.zeros(4, 2), target=torch.zeros(0, 2))
        Traceback (most recent call last):
        ...
        ValueError: a loss needs at least 1 image of each domain, got 4 source and 0 target images
    """
    if all(len(rows) >= minimum for rows in domains.values()):
        return
    got = ' and '.join(f'{len(rows)} {name}' for name, rows in domains.items())
    each = 'each domain' if len(domains) > 1 else f'the {next(iter(domains))}'
    fix = '; use larger batches, and `drop_last=True` in the loaders' if minimum > 1 else ''
    plural = 's' if minimum > 1 else ''
    raise ValueError(
        f'{what} needs at least {minimum} image{plural} of {each}, got {got} images{fix}'
    )
