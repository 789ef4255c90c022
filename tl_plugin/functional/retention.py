"""Distances from the source model: of weights, of feature maps, of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from .precision import check_images, full_precision


@full_precision
def starting_point_penalty(start: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    r"""Return half the squared distance of weights from where they started (L2-SP).

    Li et al., "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML
    2018, arXiv 1802.01483: :math:`\frac{1}{2} \sum_j \lVert w_j - w_j^0 \rVert_2^2`.

    Args:
        start: The weights at the start, :math:`w^0`; they get no gradient.
        weights: The weights now, of the same shapes in the same order.

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If the two lists don't fit together.

    Example:
        >>> starting_point_penalty([torch.zeros(2)], [torch.tensor([3.0, 4.0])])
        tensor(12.5000)
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (start, weights)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f'the weights at the start and now must have the same shapes, got {shapes[0]} and '
            f'{shapes[1]}'
        )
    terms = [(now - then.detach()).square().sum() for then, now in zip(start, weights)]
    return 0.5 * torch.stack(terms).sum()


@full_precision
def feature_map_distance(
    source: Sequence[Tensor], adapted: Sequence[Tensor], energies: Sequence[Tensor] | None = None
) -> Tensor:
    r"""Return how far the feature maps of some layers have moved from the source model's (DELTA).

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
        energies: Sum of squares of the source model's maps of each layer, 0-d. Each term is divided
            by it, so that it is 1/2 where the adapted maps are zero, whatever the scale and width
            of the layers. None divides by the number of images and positions, as published, and
            so does a zero. Defaults to None.

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
    for depth, (then, now) in enumerate(zip(source, adapted)):
        squares = (now - then.detach()).square().sum()
        count = squares.new_tensor(float(len(now) * num_positions(now)))
        energy = count.new_zeros(()) if energies is None else energies[depth]
        terms.append(squares / torch.where(energy > 0, energy, count))
    return 0.5 * torch.stack(terms).sum()


def num_positions(maps: Tensor) -> int:
    """Return how many positions a layer's output has: pixels or tokens.

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


@full_precision
def distillation_loss(source: Tensor, adapted: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Return how far predictions have moved from the source model's (LwF's distillation loss).

    Li and Hoiem, "Learning without Forgetting", ECCV 2016, arXiv 1606.09282. With probabilities
    p at temperature T, the mean over images of :math:`KL(p^0 \Vert p)`. The paper's cross-entropy
    differs from it by the entropy of :math:`p^0`, which has no gradient; like the paper and TLlib
    it isn't multiplied by :math:`T^2`.

    Args:
        source: The source model's logits, (N, K). They get no gradient.
        adapted: The adapted model's logits of the same images, (N, K).
        temperature: Divides both; larger ones look at less likely classes, too. Defaults to 2, as
            in the paper.

    Returns:
        A 0-d tensor, not negative, 0 where the predictions are equal.

    Raises:
        ValueError: If there is no image, the shapes differ, or the temperature isn't positive.
    """
    if source.shape != adapted.shape:
        raise ValueError(
            f'both models must give logits of one shape, got {tuple(source.shape)} (source) and '
            f'{tuple(adapted.shape)} (adapted)'
        )
    check_images('distillation', images=adapted)
    if temperature <= 0:
        raise ValueError(f'temperature must be > 0, got {temperature}')
    teacher = (source.detach() / temperature).log_softmax(dim=1)
    student = (adapted / temperature).log_softmax(dim=1)
    return kl_div(student, teacher, reduction='batchmean', log_target=True)


def interpolate_weights(
    source: Mapping[str, Tensor], adapted: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    r"""Return weights between those of two models: :math:`(1 - \alpha) w^0 + \alpha w`.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (WiSE-FT), CVPR 2022, arXiv
    2109.01903. Integer buffers, such as counters, are the adapted model's.

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


def average_weights(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models' weights (a model soup).

    Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482. Integer buffers, such as counters,
    are the last model's.

    Args:
        models: The ``state_dict`` of each, at least one, with the same names and shapes.

    Returns:
        A new ``state_dict``; of one model its own weights to the bit.

    Example:
        >>> average_weights([{'w': torch.zeros(2)}, {'w': torch.ones(2)}, {'w': torch.ones(2)}])
        {'w': tensor([0.6667, 0.6667])}
    """
    mean = {}
    for name, last in models[-1].items():
        if last.is_floating_point() and len(models) > 1:
            # Summed in double precision, so that their order doesn't count.
            values = torch.stack([model[name].double() for model in models])
            mean[name] = values.mean(0).to(last)
        else:
            mean[name] = last.clone()
    return mean


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
                f'{tuple(now.shape)} in the adapted one: weights of different heads '
                'cannot be interpolated; both models must have the same classes'
            )
