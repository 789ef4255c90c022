"""Losses and layers of adversarial alignment."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import check_images, full_precision


class _GradientReversal(torch.autograd.Function):
    """Identity forward, ``-weight * gradient`` backward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.saved_tensors
        return -weight.to(grad.dtype) * grad, None


def gradient_reversal(x: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """Return the input unchanged; multiply its gradient by ``-weight`` in the backward pass.

    The layer turns the minimisation of a domain classifier's loss into its maximisation by the
    feature extractor. Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016,
    arXiv 1505.07818.

    Args:
        x: Any tensor.
        weight: Lambda, the non-negative factor of the reversed gradient, a float or a 0-d tensor. A
            tensor may change from step to step without recompiling a compiled model. Defaults to 1.

    Returns:
        A tensor equal to ``x``.

    Raises:
        ValueError: If ``weight`` is a negative float, which would undo the reversal.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> gradient_reversal(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    if not isinstance(weight, Tensor):
        if weight < 0:
            raise ValueError(f'the gradient-reversal weight must not be negative, got {weight}')
        weight = x.new_tensor(weight)
    return _GradientReversal.apply(x, weight)


@torch.compiler.disable  # no double backward in compiled graphs
def input_gradient_penalty(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    r"""Return the mean squared norm of a gradient by its inputs, :math:`E \|\nabla_x D(x)\|^2`.

    Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018, arXiv
    1801.04406 (R1 and R2): it keeps the adversary flat around the data, which stabilizes training.
    Only the network receives a gradient, not the inputs.

    Args:
        network: (N, D) to (N, 1), each row by itself, twice differentiable in its weights.
        inputs: (N, D).

    Returns:
        A 0-d tensor.

    Example:
        >>> linear = torch.nn.Linear(2, 1)
        >>> penalty = input_gradient_penalty(linear, torch.randn(5, 2))
        >>> bool(torch.isclose(penalty, linear.weight.square().sum()))
        True
    """

    @full_precision
    def penalty(rows: Tensor) -> Tensor:
        # The loss may be computed under no_grad, too; the penalty needs gradients all the same.
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(network(rows).sum(), rows, create_graph=True)
        return gradient.flatten(start_dim=1).square().sum(dim=1).mean()

    return penalty(inputs)


def domain_classification_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    label_smoothing: float = 0.0,
    source_weights: Tensor | None = None,
    target_weights: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy of a domain classifier, each domain with weight one half.

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
    """Return the balanced accuracy of a domain classifier: 0.5 is chance for any batch sizes.

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
    """Return the cross-entropy of a domain classifier over K sources and the target.

    The mean over source images counts K times the mean over target images, so that each domain
    weighs the same where the sources come equally often.

    Args:
        source_logits: (N, K + 1); the last column is the target's.
        target_logits: (M, K + 1).
        domains: Which source each source image is from, in [0, K), (N,).
        label_smoothing: Probability spread over the other domains. Defaults to 0.
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
    """Return the balanced accuracy of a domain classifier, over the domains in the batch.

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
    # torch smooths over all classes, including the true one.
    classes = logits.shape[1]
    losses = F.cross_entropy(
        logits, labels, reduction='none', label_smoothing=smoothing * classes / (classes - 1)
    )
    return (losses if weights is None else losses * weights).mean()


@full_precision
def log_one_minus_softmax(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logarithm of the probability that an image is *not* of a class.

    Args:
        logits: (N, K), K at least 2.
        classes: Indices, (N,).

    Returns:
        (N,), finite however certain the class is.

    Example:
        >>> import torch
        >>> log_one_minus_softmax(torch.tensor([[1000.0, 0.0]]), torch.tensor([0]))
        tensor([-1000.])
    """
    of_class = F.one_hot(classes, logits.shape[1]).bool()
    return logits.masked_fill(of_class, -float('inf')).logsumexp(dim=1) - logits.logsumexp(dim=1)


@full_precision
def margin_disparity_loss(
    source_logits: Tensor,
    target_logits: Tensor,
    source_adversary: Tensor,
    target_adversary: Tensor,
    margin: float = 4.0,
) -> Tensor:
    r"""Return the loss of an adversary that agrees with a classifier on the source alone.

    It is minus the margin disparity discrepancy of Zhang et al., "Bridging Theory and Algorithm for
    Domain Adaptation", ICML 2019, arXiv 1904.05801, equation 30. With the classifier's predicted
    classes :math:`h(x)` and the adversary's probabilities :math:`\sigma'`:

    .. math::
        -\gamma \, \mathbb E_S \log \sigma'_{h(x)}(x)
        - \mathbb E_T \log \left(1 - \sigma'_{h(x)}(x)\right)

    Args:
        source_logits: The classifier's, (N, K). Only their argmax is used.
        target_logits: The same, (M, K).
        source_adversary: The adversary's logits, (N, K).
        target_adversary: The same, (M, K).
        margin: :math:`\gamma`. Defaults to 4, as in the paper.

    Returns:
        A 0-d tensor, not negative.

    Raises:
        ValueError: If a domain has no image.
    """
    check_images('the margin disparity', source=source_logits, target=target_logits)
    agree = F.cross_entropy(source_adversary, source_logits.argmax(dim=1))
    disagree = -log_one_minus_softmax(target_adversary, target_logits.argmax(dim=1)).mean()
    return margin * agree + disagree


def multilinear_map(features: Tensor, predictions: Tensor) -> Tensor:
    """Return the outer product of each image's features and predictions.

    Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv 1705.10667: unlike
    a concatenation it represents the joint distribution of features and classes.

    Args:
        features: (N, D).
        predictions: Probabilities, (N, K).

    Returns:
        (N, D * K).

    Example:
        >>> import torch
        >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.7500, 0.5000, 1.5000]])
    """
    return (features[:, :, None] * predictions[:, None, :]).flatten(start_dim=1)


def random_multilinear_map(
    features: Tensor,
    predictions: Tensor,
    feature_projection: Tensor,
    prediction_projection: Tensor,
) -> Tensor:
    r"""Approximate :func:`multilinear_map` in fewer dimensions.

    :math:`T(f, g) = \frac{1}{\sqrt d} (f R_f) \odot (g R_g)`, equation 6 of the same paper. Inner
    products of such vectors are, in expectation over the projections, those of the outer products.

    Args:
        features: (N, D).
        predictions: Probabilities, (N, K).
        feature_projection: Fixed random numbers of mean 0 and variance 1, (D, d).
        prediction_projection: The same, (K, d).

    Returns:
        (N, d).
    """
    channels = feature_projection.shape[1]
    projected = (features @ feature_projection) * (predictions @ prediction_projection)
    return projected / math.sqrt(channels)
