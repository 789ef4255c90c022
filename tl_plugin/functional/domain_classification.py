from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def domain_classification_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    label_smoothing: float = 0.0,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of a domain classifier, each domain with weight one half.

    Ganin et al., JMLR 2016, arXiv 1505.07818, equation 8, whose two terms are means over their own
    domain: batches of different size weigh the same.

    Args:
        source_logits: Logits of "this is target" for source images, (N,) or (N, 1).
        target_logits: The same for target images, (M,) or (M, 1).
        label_smoothing: Domain labels become this and one minus this. In [0, 0.5). Defaults to 0.
        source_weights: Factors of the source images' terms, (N,), mean 1 to keep the scale. None
            for all equal. Defaults to None.
        target_weights: The same for target images, (M,).

    Returns:
        A 0-d tensor, ln 2 = 0.693 where the classifier can't tell the domains apart.

    Raises:
        ValueError: If a domain has no image, or the smoothing is out of range.
    """
    if source_logits.numel() == 0 or target_logits.numel() == 0:
        raise ValueError(
            'a domain loss needs images of both domains, got '
            f'{source_logits.numel()} source and {target_logits.numel()} target images'
        )
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f'label_smoothing must be in [0, 0.5), got {label_smoothing}')
    source = _binary_cross_entropy(source_logits, label_smoothing, source_weights)
    target = _binary_cross_entropy(target_logits, 1 - label_smoothing, target_weights)
    return 0.5 * (source + target)


def _binary_cross_entropy(logits: Tensor, label: float, weights: Tensor | None) -> Tensor:
    labels = logits.new_full((), label).expand_as(logits)
    if weights is not None:
        weights = weights.view_as(logits)
    return F.binary_cross_entropy_with_logits(logits, labels, weights)


def domain_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Mean of the two domains' shares of rightly told images: 0.5 is chance for any batch sizes.

    Args:
        source_logits: Logits of "this is target" for source images, any non-empty shape.
        target_logits: The same for target images.

    Returns:
        A 0-d tensor in [0, 1], without gradient.

    Example:
        >>> import torch
        >>> domain_accuracy(torch.tensor([-1.0]), torch.tensor([1.0, 2.0, -3.0, -4.0]))
        tensor(0.7500)
    """
    source_right = (source_logits.detach() <= 0).float().mean()
    target_right = (target_logits.detach() > 0).float().mean()
    return 0.5 * (source_right + target_right)


def several_domains_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    domains: Tensor,
    label_smoothing: float = 0.0,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of a domain classifier over K sources and the target.

    The mean over source images counts K times the mean over target images, so that each domain
    weighs the same where the sources come equally often.

    Args:
        source_logits: (N, K + 1); the last column is the target's.
        target_logits: (M, K + 1).
        domains: Which source each source image is from, in [0, K), (N,).
        label_smoothing: What of a label is spread over the other domains. Defaults to 0.
        source_weights: See :func:`domain_classification_loss`.
        target_weights: The same for target images.

    Returns:
        A 0-d tensor, ln(K + 1) where the classifier can't tell the domains apart.

    Raises:
        ValueError: If a domain has no image.
    """
    if source_logits.numel() == 0 or target_logits.numel() == 0:
        raise ValueError(
            'a domain loss needs images of both domains, got '
            f'{len(source_logits)} source and {len(target_logits)} target images'
        )
    num_sources = source_logits.shape[1] - 1
    target_labels = domains.new_full((len(target_logits),), num_sources)
    source = _cross_entropy(source_logits, domains, label_smoothing, source_weights)
    target = _cross_entropy(target_logits, target_labels, label_smoothing, target_weights)
    return (num_sources * source + target) / (num_sources + 1)


def several_domains_accuracy(
    source_logits: Tensor, target_logits: Tensor, domains: Tensor
) -> Tensor:
    """Mean of the domains' shares of rightly told images, over those that have any.

    Args:
        source_logits: (N, K + 1); the last column is the target's.
        target_logits: (M, K + 1).
        domains: Which source each source image is from, (N,).

    Returns:
        A 0-d tensor in [0, 1], without gradient; 1 / (K + 1) is chance.
    """
    num_sources = source_logits.shape[1] - 1
    labels = torch.cat([domains, domains.new_full((len(target_logits),), num_sources)])
    right = torch.cat([source_logits, target_logits]).detach().argmax(dim=1) == labels
    of_domain = F.one_hot(labels, num_sources + 1).float()
    return (of_domain.T @ right.float() / of_domain.sum(dim=0)).nanmean()


def _cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None
) -> Tensor:
    # torch spreads it over all classes, the right one among them.
    classes = logits.shape[1]
    losses = F.cross_entropy(
        logits, labels, reduction='none', label_smoothing=smoothing * classes / (classes - 1)
    )
    return (losses if weights is None else losses * weights).mean()
