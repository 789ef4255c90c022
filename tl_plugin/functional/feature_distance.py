from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_images
from .gather import gather_ranks
from .precision import full_precision


@full_precision
def feature_map_distance(
    source: Sequence[Tensor], adapted: Sequence[Tensor], relative: bool = False
) -> Tensor:
    r"""How far the feature maps of some layers have moved from the source model's (DELTA).

    Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional
    Networks", ICLR 2019, arXiv 1901.09229. For layers j with :math:`C_j` channels and :math:`P_j`
    positions, and channel attentions :math:`a_j` that add up to one,

    .. math::
        \frac{1}{N} \sum_{i=1}^N \frac{1}{2} \sum_j \frac{C_j}{P_j} \sum_c a_{jc}
        \lVert F_{jc}(x_i) - F^0_{jc}(x_i) \rVert_2^2

    with all channels attended alike, :math:`a_{jc} = 1 / C_j`: the sum over channels of the mean
    over positions. The authors learn the attentions by training a classifier on the features and
    leaving out every channel in turn, which costs more than the fine-tuning itself here. TLlib adds
    over the images, so that its loss is N times this one.

    Args:
        source: The source model's maps, one tensor a layer: (N, C), (N, tokens, C), (N, C, H, W) or
            (N, H, W, C), see :func:`num_positions`. They get no gradient.
        adapted: The adapted model's maps of the same images and layers.
        relative: Divide each layer's term by the source model's mean squared map, so that half
            means as far away as nothing at all, whatever the scale and width of the layers.
            Defaults to False, as published.

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If there are no images, or the two models' maps differ in shape.
    """
    shapes = [[tuple(maps.shape) for maps in model] for model in (source, adapted)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            'both models must give maps of the same shapes, got '
            f'{shapes[0]} (source) and {shapes[1]} (adapted)'
        )
    check_images('the distance of feature maps', images=adapted[0])
    terms = []
    for then, now in zip(source, adapted):
        then = then.detach()
        squares = (now - then).square().sum()
        count = len(now) * num_positions(now)
        energy = then.new_zeros(())
        if relative:
            # Of the images of all ranks, or ranks would measure in units of their own.
            energy = gather_ranks(then.square().sum()[None]).mean()
        # A layer that gives nothing at all has no scale: there the plain distance counts.
        terms.append(squares / torch.where(energy > 0, energy, energy.new_tensor(float(count))))
    return 0.5 * torch.stack(terms).sum()


def num_positions(maps: Tensor) -> int:
    """How many positions a layer's output has: pixels or tokens.

    Args:
        maps: (N, C), (N, tokens, C), or four-dimensional: (N, H, W, C) where the second and third
            side are equal and the fourth isn't, as in timm's Swin, else (N, C, H, W).

    Example:
        >>> num_positions(torch.zeros(2, 8, 7, 7)), num_positions(torch.zeros(2, 7, 7, 96))
        (49, 49)
        >>> num_positions(torch.zeros(2, 197, 192)), num_positions(torch.zeros(2, 10))
        (197, 1)
    """
    if maps.dim() == 3:
        return maps.shape[1]
    channels_last = maps.dim() == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3]
    return (maps.shape[1:-1] if channels_last else maps.shape[2:]).numel()
