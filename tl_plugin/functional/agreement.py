from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Flips(NamedTuple):
    """Shares of images, in [0, 1].

    Attributes:
        flipped: The two models predict different classes.
        gained: The source model is wrong and the adapted one right. None without labels.
        lost: The source model is right and the adapted one wrong. None without labels.
    """

    flipped: float
    gained: float | None = None
    lost: float | None = None


def prediction_flips(source: Tensor, adapted: Tensor, labels: Tensor | None = None) -> Flips:
    """Compares two models' predictions image by image.

    Args:
        source: Classes that the source model predicts, (N,).
        adapted: Classes that the adapted model predicts for the same images, (N,).
        labels: True classes, (N,), -1 where there is none. Defaults to None.

    Returns:
        The shares; those with labels are of the labelled images.

    Raises:
        ValueError: If there is no image, or the numbers of images differ.

    Example:
        >>> import torch
        >>> flips = prediction_flips(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]),
        ...                          torch.tensor([0, 0, 1, 0]))
        >>> flips.flipped, flips.gained, flips.lost
        (0.5, 0.25, 0.25)
    """
    sizes = {len(values) for values in (source, adapted, labels) if values is not None}
    if len(sizes) != 1 or not len(source):
        raise ValueError(
            'predictions are compared image by image: expected as many of both models, at least '
            f'one, got {len(source)} and {len(adapted)}'
            + ('' if labels is None else f' with {len(labels)} labels')
        )
    flipped = (source != adapted).float().mean().item()
    known = None if labels is None else labels >= 0
    if known is None or not known.any():
        return Flips(flipped)
    right_before, right_now = source == labels, adapted == labels
    gained, lost = ~right_before & right_now, right_before & ~right_now
    return Flips(flipped, *(each[known].float().mean().item() for each in (gained, lost)))
