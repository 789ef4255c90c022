"""Scores of a classifier on data without labels, from its probabilities alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


@full_precision
def mean_entropy(probabilities: Tensor) -> Tensor:
    """Mean entropy of the predictions, in nats: low where the model is sure.

    Morerio et al., "Minimal-Entropy Correlation Alignment", ICLR 2018, arXiv 1711.10288, choose by
    it. A model that is sure of one class for all images scores best, so don't choose by it alone.

    Args:
        probabilities: (N, K), rows add up to 1.

    Returns:
        A 0-d tensor in [0, ln K]. Lower is better.
    """
    return _entropy(probabilities).mean()


@full_precision
def information_maximization(probabilities: Tensor) -> Tensor:
    """Entropy of the mean prediction minus the mean entropy, in nats: sure, and of many classes.

    The mutual information of input and prediction, Bridle et al., NeurIPS 1991; as a criterion of
    choice in Musgrave et al., "Benchmarking Validation Methods for Unsupervised Domain Adaptation",
    arXiv 2208.07360.

    Args:
        probabilities: (N, K), rows add up to 1.

    Returns:
        A 0-d tensor in [0, ln K]. Higher is better.
    """
    return _entropy(probabilities.mean(0)) - mean_entropy(probabilities)


@full_precision
def soft_neighborhood_density(
    probabilities: Tensor, temperature: float = 0.05, chunk: int = 1024, most: int = 8192
) -> Tensor:
    """Mean entropy of each image's similarity to all others, in nats: high in dense clusters.

    Saito et al., "Tune it the Right Way", ICCV 2021, arXiv 2108.10860, equations 2 to 4.

    Args:
        probabilities: (N, K), rows add up to 1. N is at least 2.
        temperature: Of the softmax over similarities. Defaults to 0.05, as in the paper.
        chunk: Rows whose similarities are held in memory at a time; changes nothing else.
        most: Images whose entropy is averaged. Of more, so many are taken, spread evenly over all,
            each compared with all: the standard error of the mean is at most
            ``ln(N - 1) / (2 sqrt(most))``, and the time is in proportion to N. Defaults to 8192.

    Returns:
        A 0-d tensor in [0, ln(N - 1)]. Higher is better.

    Raises:
        ValueError: If there are fewer than two images.
    """
    count = len(probabilities)
    if count < 2:
        raise ValueError(f'soft neighborhood density needs 2 images or more, got {count}')
    unit = F.normalize(probabilities, dim=1)
    total = probabilities.new_zeros(())
    taken = torch.arange(min(count, most), device=unit.device) * count // min(count, most)
    for rows in taken.split(chunk):
        similarity = unit[rows] @ unit.T / temperature
        similarity.scatter_(1, rows[:, None], float('-inf'))  # nobody is a neighbour of himself
        total = total + _entropy(similarity.softmax(1)).sum()
    return total / len(taken)


@full_precision
def batch_nuclear_norm(probabilities: Tensor) -> Tensor:
    """Nuclear norm of the predictions over its bound: sure, and of many classes.

    Cui et al., "Towards Discriminability and Diversity", CVPR 2020, arXiv 2003.12237, where it is a
    loss of a batch. Divided by ``sqrt(N min(N, K))``, so that sets of any size compare.

    Args:
        probabilities: (N, K), rows add up to 1.

    Returns:
        A 0-d tensor in (0, 1]. Higher is better.
    """
    count, classes = probabilities.shape
    norm = torch.linalg.svdvals(probabilities).sum()
    return norm / (count * min(count, classes)) ** 0.5


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)
