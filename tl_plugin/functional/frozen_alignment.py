"""Unsupervised adaptation of a linear classifier on features that don't change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .label_propagation import balance_classes, propagate_labels
from .precision import full_precision

#: Share of the mean variance of the features that is added to the variance of each: small, for it
#: only has to bound the weights.
SHRINKAGE = 0.01


class Standardization(NamedTuple):
    """Mean and inverse standard deviation of each feature of one domain.

    Attributes:
        mean: (D,).
        inverse: (D,); 0 for a feature that is the same in all images, which says nothing. The
            variance of the others is taken for larger by :data:`SHRINKAGE` of the mean variance:
            one that hardly varies would get a weight of hundreds, so that an image in which it
            does outweighs all others.
    """

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardization:
        """Measure the features of a domain, (N, D), N at least 2.

        >>> Standardization.of(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        Standardization(mean=tensor([2., 5.]), inverse=tensor([0.9975, 0.0000]))
        """
        mean, variance = features.mean(0), features.var(0, correction=0)
        # The last digits of float32 vary, too, with the size of a batch.
        varies = variance > 1e-10 * features.square().mean(0)
        shrunk = variance + SHRINKAGE * variance.mean()
        return cls(mean, torch.where(varies, shrunk.rsqrt(), 0.0))

    def __call__(self, features: Tensor) -> Tensor:
        """Standardize features, (N, D)."""
        return (features - self.mean) * self.inverse

    def fold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a linear layer that standardizes its input, too.

        Args:
            weight: Of a layer without bias on standardized features, (K, D).
        """
        folded = weight * self.inverse
        return folded, -folded @ self.mean


class FrozenAlignment(NamedTuple):
    """A linear classifier of standardized target features, and how it came about.

    Attributes:
        weight: (K, D). The argmax of ``weight @ z`` doesn't depend on the length of ``z``, so that
            the normalisation to unit length, in which it was fitted, needn't be carried along.
        standardization: The target's.
        pseudo_labels: The last round's labels of the target images, (N,).
        changed: Share of pseudo-labels that each round has changed, propagation last.
    """

    weight: Tensor
    standardization: Standardization
    pseudo_labels: Tensor
    changed: tuple[float, ...]

    def linear_layer(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Fold all into one layer that takes features as the network gives them.

        Its classes are exactly those of the fitted classifier; its scores are scaled by the mean
        length of the target's standardized features, instead of each image's own.

        Args:
            features: Of target images, (N, D).

        Returns:
            Weight (K, D) and bias (K,).
        """
        length = self.standardization(features).norm(dim=1).mean().clamp(min=1e-6)
        return self.standardization.fold(self.weight / length)


@full_precision
def frozen_alignment(
    source: Tensor,
    labels: Tensor,
    target: Tensor,
    num_classes: int,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    inverse_penalty: float = 10.0,
    neighbours: int = 0,
) -> FrozenAlignment:
    """Fit a linear classifier on source features and adapt it to the target's.

    Features are standardized per domain and normalised to unit length. A logistic regression on the
    source labels the target; then it is fitted again on source and target together, the surest of
    each predicted class first: so many of each class that none is crowded out (class-balanced
    self-training, Zou et al., ECCV 2018, arXiv 1810.07911). It has no bias: a bias would learn how
    frequent a class is on the source, and the rounds would then reinforce it on the target.

    Args:
        source: (N, D).
        labels: Classes of the source images, (N,).
        target: (M, D).
        num_classes: K.
        shares: Share of each predicted class that a round learns from, in (0, 1]; no round for an
            empty sequence. Defaults to 20% to 100%.
        inverse_penalty: C of the logistic regression. Defaults to 10, which held-out photographs
            and paintings of PACS have the highest likelihood with on average.
        neighbours: With so many neighbours of each target image the last pseudo-labels, their
            classes balanced, are spread to near images (:func:`propagate_labels`), and the
            classifier is fitted to the result. Defaults to 0, not at all.

    Returns:
        The classifier.

    Raises:
        ValueError: If a domain has fewer than two images, a label is out of range, or an argument
            is.
    """
    _check(source, labels, target, num_classes)
    check_rounds(shares, inverse_penalty, neighbours)
    standardization = Standardization.of(target)
    x_source = F.normalize(Standardization.of(source)(source), dim=1)
    x_target = F.normalize(standardization(target), dim=1)
    weight = logistic_regression(x_source, labels, num_classes, inverse_penalty)
    found = (x_target @ weight.T).argmax(1)
    changed = []
    for share in (*shares, *([1.0] if neighbours else [])):
        probabilities = (x_target @ weight.T).softmax(1)
        if len(changed) == len(shares):
            probabilities = propagate_labels(x_target, balance_classes(probabilities), neighbours)
        before, guessed = found, probabilities.argmax(1)
        kept = surest_of_each_class(probabilities, share)
        weight = logistic_regression(
            torch.cat([x_source, x_target[kept]]),
            torch.cat([labels, guessed[kept]]),
            num_classes,
            inverse_penalty,
            start=weight,
        )
        found = (x_target @ weight.T).argmax(1)
        changed.append((found != before).float().mean().item())
    return FrozenAlignment(weight, standardization, found, tuple(changed))


def surest_of_each_class(probabilities: Tensor, share: float) -> Tensor:
    """Return the images that are surest of their predicted class, the same share of each class.

    Args:
        probabilities: (N, K).
        share: In (0, 1]; at least one image of each class that is predicted.

    Returns:
        Their indices, sorted.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.4, 0.6]])
        >>> surest_of_each_class(p, 0.5)
        tensor([0, 2, 3])
    """
    confidence, predicted = probabilities.max(1)
    kept = []
    for label in predicted.unique():
        images = (predicted == label).nonzero().flatten()
        count = -int(-share * len(images) // 1)
        kept.append(images[confidence[images].argsort(descending=True, stable=True)[:count]])
    return torch.cat(kept).sort().values


@full_precision
def logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    inverse_penalty: float = 1.0,
    start: Tensor | None = None,
    max_iters: int = 300,
) -> Tensor:
    r"""Fit a multinomial logistic regression without bias by L-BFGS.

    It minimises :math:`\sum_i \mathrm{CE}(W x_i, y_i) + \lVert W \rVert^2 / (2 C)`, as
    scikit-learn's ``LogisticRegression(C, fit_intercept=False)`` does.

    Args:
        features: (N, D).
        labels: (N,), from 0 to K - 1.
        num_classes: K.
        inverse_penalty: C. Defaults to 1.
        start: Weights to begin with, (K, D). Defaults to None, zeros.
        max_iters: Of L-BFGS at most. Defaults to 300.

    Returns:
        The weights, (K, D).
    """
    weight = features.new_zeros(num_classes, features.shape[1]) if start is None else start.clone()
    targets = F.one_hot(labels, num_classes).to(features)

    def loss_and_gradient() -> Tensor:
        log_probabilities = (features @ weight.T).log_softmax(1)
        loss = -(targets * log_probabilities).sum() + weight.square().sum() / (2 * inverse_penalty)
        weight.grad = (log_probabilities.exp() - targets).T @ features + weight / inverse_penalty
        # Of an image, so that the tolerances below mean the same for any number.
        weight.grad /= len(features)
        return loss / len(features)

    return _minimise(weight, loss_and_gradient, max_iters)


@torch.no_grad()
def _minimise(weight: Tensor, closure: Callable[[], Tensor], max_iters: int) -> Tensor:
    weight.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=max_iters,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        line_search_fn='strong_wolfe',
    )
    optimizer.step(closure)
    return weight.detach()


def _check(
    source: Tensor,
    labels: Tensor,
    target: Tensor,
    num_classes: int,
) -> None:
    if len(source) < 2 or len(target) < 2 or len(labels) != len(source):
        raise ValueError(
            'features are standardized per domain, over two images at least, and each source '
            f'image has a label; got {len(source)} source images, {len(labels)} labels and '
            f'{len(target)} target images'
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f'source labels must be from 0 to {num_classes - 1}, got {int(labels.min())} to '
            f'{int(labels.max())}'
        )


def check_rounds(shares: Sequence[float], inverse_penalty: float, neighbours: int = 0) -> None:
    """Raise a ValueError for options of :func:`frozen_alignment` that are out of their ranges."""
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f'shares of pseudo-labels must be in (0, 1], got {list(shares)}')
    if not 0 < inverse_penalty < float('inf'):
        raise ValueError(f'inverse_penalty must be > 0 and finite, got {inverse_penalty}')
    if neighbours < 0:
        raise ValueError(f'neighbours must be at least 0, got {neighbours}')
