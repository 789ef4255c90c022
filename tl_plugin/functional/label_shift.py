"""Class frequencies of the target, estimated from predictions alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision

_TINY = 1e-12


@full_precision
def black_box_shift(
    source_probabilities: Tensor, source_labels: Tensor, target_probabilities: Tensor
) -> Tensor:
    r"""Estimate the class frequencies of the target by black-box shift estimation (BBSE).

    Lipton et al., "Detecting and Correcting for Label Shift with Black Box Predictors", ICML 2018,
    arXiv 1802.03916: solves :math:`\hat C \hat w = \hat\mu` with
    :math:`\hat C_{ij} = \hat p_S(\text{predicted } i, \text{class } j)` and the target's
    frequencies of predicted classes; the frequencies are :math:`w_j \hat p_S(j)`. It takes
    probabilities for predictions (the soft variant), the least-squares solution with the least
    norm, and none below zero.

    Args:
        source_probabilities: On labelled source images that weren't trained on, (N, K).
        source_labels: Their classes, (N,).
        target_probabilities: On target images, (M, K).

    Returns:
        (K,), adds up to 1.

    Raises:
        ValueError: If a domain has no image.
    """
    _check(source_probabilities, source_labels, target_probabilities)
    num_classes = source_probabilities.shape[1]
    of_class = torch.nn.functional.one_hot(source_labels, num_classes).to(source_probabilities)
    joint = source_probabilities.T @ of_class / len(source_labels)
    # The pseudo-inverse copes with a class that has no image.
    ratios = torch.linalg.pinv(joint) @ target_probabilities.mean(dim=0)
    return _normalised(ratios.clamp(min=0) * of_class.mean(dim=0))


@full_precision
def expectation_maximization_shift(
    source_frequencies: Tensor,
    target_probabilities: Tensor,
    tolerance: float = 1e-6,
    max_rounds: int = 1000,
) -> Tensor:
    r"""Estimate the class frequencies of the target by expectation maximisation.

    Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural
    Computation 2002: weighs the probabilities by the ratio of frequencies, normalises, takes the
    mean for the new frequencies, and so on. It trusts the probabilities to be calibrated.

    Args:
        source_frequencies: Of the classes the model was trained on, (K,).
        target_probabilities: (M, K).
        tolerance: Stop where no frequency changes by more. Defaults to 1e-6.
        max_rounds: Stop after so many rounds. Defaults to 1000.

    Returns:
        (K,), adds up to 1.

    Raises:
        ValueError: If there is no image.
    """
    if len(target_probabilities) == 0:
        raise ValueError('class frequencies need at least one target image')
    source = source_frequencies.double().clamp(min=_TINY)
    probabilities, found = target_probabilities.double(), source
    for _ in range(max_rounds):
        weighed = probabilities * (found / source)
        update = (weighed / weighed.sum(dim=1, keepdim=True).clamp(min=_TINY)).mean(dim=0)
        change = (update - found).abs().max()
        found = update
        if change < tolerance:
            break
    return _normalised(found).to(source_frequencies)


def total_variation(first: Tensor, second: Tensor) -> Tensor:
    """Return half the sum of the absolute differences of two distributions, in [0, 1].

    Example:
        >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]))
        tensor(0.3000)
    """
    return 0.5 * (first - second).abs().sum()


def _check(source: Tensor, labels: Tensor, target: Tensor) -> None:
    if len(source) == 0 or len(target) == 0 or len(source) != len(labels):
        raise ValueError(
            'label shift needs labelled source images and target images, got '
            f'{len(source)} source predictions, {len(labels)} labels, {len(target)} target '
            'predictions'
        )


def _normalised(frequencies: Tensor) -> Tensor:
    return frequencies / frequencies.sum().clamp(min=_TINY)
