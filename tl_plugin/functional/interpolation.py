from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def interpolate_weights(
    source: Mapping[str, Tensor], adapted: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    r"""Weights between those of two models: :math:`(1 - \alpha) w^0 + \alpha w`.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, arXiv
    2109.01903. Counters, which are whole numbers, are the adapted model's.

    Args:
        source: The source model's ``state_dict``.
        adapted: The adapted model's, with the same names and shapes.
        alpha: 0 gives the source model, 1 the adapted one.

    Returns:
        A new ``state_dict``; at 0 and 1 the models' own weights to the bit.

    Raises:
        ValueError: If the two aren't weights of one network.

    Example:
        >>> interpolate_weights({'w': torch.zeros(2)}, {'w': torch.ones(2)}, 0.25)
        {'w': tensor([0.2500, 0.2500])}
    """
    check_same_network(source, adapted)
    mixed = {}
    for name, now in adapted.items():
        if not now.is_floating_point() or alpha == 1:
            mixed[name] = now.clone()
        else:
            mixed[name] = torch.lerp(source[name].to(now), now, alpha)
    return mixed


def check_same_network(source: Mapping[str, Tensor], adapted: Mapping[str, Tensor]) -> None:
    """Check that two models differ in nothing but the values of their weights.

    Args:
        source: The source model's ``state_dict``.
        adapted: The adapted model's.

    Raises:
        ValueError: If a name is in one of them alone, or two shapes differ.
    """
    single = sorted(set(source) ^ set(adapted))
    if single:
        owner = 'source' if single[0] in source else 'adapted'
        raise ValueError(
            f'the two models must be one network with different weights, but {len(single)} names '
            f'are in one of them alone: {single[0]} is only in the {owner} one'
        )
    for name, now in adapted.items():
        then = source[name]
        if then.shape != now.shape:
            raise ValueError(
                f'{name} has the shape {tuple(then.shape)} in the source model and '
                f'{tuple(now.shape)} in the adapted one: weights of different heads have nothing '
                'in between; both models must know the same classes'
            )
