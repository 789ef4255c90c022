from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_images(what: str, minimum: int = 1, **domains: Tensor) -> None:
    """Refuses batches that have too few images.

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
    cure = '; use larger batches, and `drop_last=True` in the loaders' if minimum > 1 else ''
    plural = 's' if minimum > 1 else ''
    raise ValueError(
        f'{what} needs at least {minimum} image{plural} of {each}, got {got} images{cure}'
    )


def check_bandwidths(owner: str, bandwidths: Sequence[float], name: str = 'bandwidths') -> None:
    """Refuses widths of kernels that aren't any.

    Args:
        owner: Whose they are, for the message.
        bandwidths: The widths.
        name: What they are called. Defaults to 'bandwidths'.

    Raises:
        ValueError: If there is none, or one isn't positive.
    """
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(
            f'{owner}: {name} must be positive, at least one of them, got {list(bandwidths)}'
        )
