"""Accuracy of a classifier on images without labels, estimated from its probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import check_images, full_precision
from .predictions import prediction_entropy


@full_precision
def threshold_accuracy(source: Tensor, right: Tensor, target: Tensor) -> Tensor:
    """Estimate accuracy as the share of images surer than a threshold (ATC).

    Garg et al., "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance" (average
    thresholded confidence), ICLR 2022, arXiv 2201.04234, with the negative entropy as the score.
    The threshold is the one that as many source images stay below as are wrong.

    Args:
        source: Log-probabilities of held-out source images, (N, K).
        right: Whether each of them is predicted right, (N,) bool.
        target: Log-probabilities of target images, (M, K).

    Returns:
        A 0-d tensor in [0, 1].

    Raises:
        ValueError: If there is no image of a domain.

    Example:
        >>> source = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]).log()
        >>> right = torch.tensor([True, True, True, False])
        >>> threshold_accuracy(source, right, torch.tensor([[0.7, 0.3], [0.51, 0.49]]).log())
        tensor(0.5000)
    """
    check_images('expected accuracy', source=source, target=target)
    scores = -prediction_entropy(source)
    wrong = int((~right).sum())
    ordered = scores.sort().values
    # Between the surest image that counts as wrong and the next: nothing is below all of them.
    below = ordered[wrong - 1] if wrong else ordered[0] - 1
    above = ordered[wrong] if wrong < len(ordered) else ordered[-1] + 1
    # With no source image wrong, the least sure of them still is the measure.
    threshold = above if not wrong else (below + above) / 2
    return (-prediction_entropy(target) >= threshold).float().mean()


@full_precision
def confidence_accuracy(source: Tensor, right: Tensor, target: Tensor) -> Tensor:
    """Estimate accuracy by how much less confident the model is on the target (DoC).

    Guillory et al., "Predicting with Confidence on Unseen Distributions" (difference of
    confidences), ICCV 2021, arXiv 2107.03315: the source's accuracy minus the difference of the
    mean probabilities of the predicted class.

    Args:
        source: Log-probabilities of held-out source images, (N, K).
        right: Whether each of them is predicted right, (N,) bool.
        target: Log-probabilities of target images, (M, K).

    Returns:
        A 0-d tensor in [0, 1].

    Raises:
        ValueError: If there is no image of a domain.
    """
    check_images('expected accuracy', source=source, target=target)
    lost = _confidence(source) - _confidence(target)
    return (right.float().mean() - lost).clamp(0, 1)


@full_precision
def transported_confidence(
    prior: Tensor, target: Tensor, sharpness: float = 0.02, rounds: int = 200
) -> Tensor:
    r"""Return each prediction's confidence in the classes that optimal transport moves it to.

    Lu et al., "Characterizing Out-of-Distribution Error via Optimal Transport" (confidence optimal
    transport, COT), NeurIPS 2023, arXiv 2305.15640: the error is the optimal transport cost between
    the predictions and one-hot labels as frequent as the source's, where moving prediction p onto
    class k costs :math:`\lVert p - e_k \rVert_\infty = 1 - p_k`. A model that is sure of too few
    classes pays for it, which confidence alone doesn't see. The plan is Sinkhorn's, with a small
    entropic term (Cuturi, NeurIPS 2013).

    Args:
        prior: Share of each class in the source, (K,), adds up to 1.
        target: Log-probabilities of target images, (M, K).
        sharpness: Weight of the entropic term. Defaults to 0.02.
        rounds: Of Sinkhorn's iteration. Defaults to 200.

    Returns:
        (M,), in [0, 1].

    Raises:
        ValueError: If there is no image.
    """
    check_images('expected accuracy', target=target)
    gains = target.exp() / sharpness
    log_prior = prior.to(gains).clamp(min=1e-12).log()
    log_mass = -torch.log(gains.new_tensor(float(len(gains))))
    columns = torch.zeros_like(log_prior)
    for _ in range(rounds):
        rows = log_mass - (gains + columns).logsumexp(1, keepdim=True)
        columns = log_prior - (gains + rows).logsumexp(0)
    plan = (gains + columns).softmax(1)
    return (plan * target.exp()).sum(1)


def transport_accuracy(prior: Tensor, target: Tensor) -> Tensor:
    """Estimate accuracy as the mean of :func:`transported_confidence` (COT).

    Args:
        prior: Share of each class in the source, (K,), adds up to 1.
        target: Log-probabilities of target images, (M, K).

    Returns:
        A 0-d tensor in [0, 1].

    Raises:
        ValueError: If there is no image.
    """
    return transported_confidence(prior, target).mean().clamp(0, 1)


@full_precision
def matrix_norm(log_probabilities: Tensor, order: float = 4.0) -> Tensor:
    r"""Return the normalised norm of the prediction matrix (MaNo): high for sure predictions.

    Xie et al., "MaNo: Exploiting Matrix Norm for Unsupervised Accuracy Estimation Under
    Distribution Shifts", NeurIPS 2024, arXiv 2405.18979:
    :math:`(\frac{1}{NK} \sum_{ik} q_{ik}^p)^{1/p}`. Where predictions are far from uniform, q are
    the probabilities; else the logits normalised by the second-order Taylor polynomial of the
    exponential, which overconfidence moves less. A rank of models, no accuracy.

    Args:
        log_probabilities: (N, K). Up to a constant of each image they are its logits.
        order: The p above. Defaults to 4, as in the paper.

    Returns:
        A 0-d tensor in (0, 1].

    Raises:
        ValueError: If there is no image.
    """
    check_images('the matrix norm', target=log_probabilities)
    logits = log_probabilities - log_probabilities.mean(1, keepdim=True)
    if -log_probabilities.mean() > 5:
        normed = log_probabilities.exp()
    else:
        polynomial = 1 + logits + logits.square() / 2  # at least 1/2
        normed = polynomial / polynomial.sum(1, keepdim=True)
    return normed.pow(order).mean().pow(1 / order)


def _confidence(log_probabilities: Tensor) -> Tensor:
    """Return the mean probability of the predicted class, 0-d."""
    return log_probabilities.exp().amax(1).mean()
