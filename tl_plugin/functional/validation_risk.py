"""Risk on the target, estimated from labelled source images that look like it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import full_precision


@full_precision
def control_variate_risk(weights: Tensor, losses: Tensor) -> Tensor:
    r"""Return the weighted mean of losses, with a control variate for the noise of the weights.

    You et al., "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML
    2019, PMLR 97 (DEV):
    :math:`\overline{w\ell} + \eta \overline{w} - \eta` with
    :math:`\eta = -\mathrm{Cov}(w\ell, w) / \mathrm{Var}(w)`.

    Args:
        weights: Density ratio of target to source at each image, about 1 on average, (N,).
        losses: (N,).

    Returns:
        A 0-d tensor; the weighted mean itself where all weights are equal.

    Raises:
        ValueError: If there are fewer than two images.
    """
    if len(weights) < 2:
        raise ValueError(f'the validation risk needs 2 source images or more, got {len(weights)}')
    products = weights * losses
    variance = weights.var()
    covariance = ((products - products.mean()) * (weights - weights.mean())).sum()
    covariance = covariance / (len(weights) - 1)
    eta = torch.where(variance > 0, -covariance / variance, torch.zeros_like(variance))
    return products.mean() + eta * weights.mean() - eta


def density_ratio(source: Tensor, target: Tensor, decay: float = 1.0, folds: int = 2) -> Tensor:
    """Estimate how much denser the target is than the source at each source image's features.

    The ratio comes from a logistic regression that separates the domains, as in DEV; each image is
    weighted by a regression that was fitted on other images, so that overfitting cannot bias it.

    Args:
        source: Features, (N, D).
        target: Features, (M, D).
        decay: Of the regression's weights, over standardised features. Defaults to 1.
        folds: In how many parts the images are divided. Defaults to 2.

    Returns:
        (N,), positive, mean about 1.

    Raises:
        ValueError: If a domain has fewer images than there are folds.
    """
    if min(len(source), len(target)) < folds:
        raise ValueError(
            f'a density ratio in {folds} folds needs as many images of each domain, got '
            f'{len(source)} source and {len(target)} target images'
        )
    source, target = source.detach(), target.detach()
    everything = torch.cat([source, target]).double()
    mean, deviation = everything.mean(dim=0), everything.std(dim=0).clamp(min=1e-6)
    source, target = ((rows.double() - mean) / deviation for rows in (source, target))
    ratios = source.new_empty(len(source))
    for fold in range(folds):
        held_out = torch.arange(len(source), device=source.device) % folds == fold
        others = torch.arange(len(target), device=target.device) % folds != fold
        logits = _log_odds(source[~held_out], target[others], source[held_out], decay)
        ratios[held_out] = logits.exp()
    return ratios.float()


def _log_odds(source: Tensor, target: Tensor, queries: Tensor, decay: float) -> Tensor:
    """Log of p(target | x) / p(source | x), for domains that weigh the same."""
    with torch.enable_grad():
        weight = source.new_zeros(source.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight], max_iter=100, tolerance_grad=1e-8, line_search_fn='strong_wolfe'
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = [rows @ weight[:-1] + weight[-1] for rows in (source, target)]
            loss = F.softplus(logits[0]).mean() + F.softplus(-logits[1]).mean()
            images = len(source) + len(target)
            loss = loss / 2 + decay * weight[:-1].square().sum() / (2 * images)
            loss.backward()
            return loss

        optimizer.step(closure)
    return (queries @ weight[:-1] + weight[-1]).detach()
