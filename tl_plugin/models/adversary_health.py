from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from tl_plugin.functional import effective_rank, relative_spread

# A power of two: it changes no digit of a gradient and lifts it over the end of half precision.
_LIFT = 1024.0


@torch.compiler.disable
def gradient_ratio(adversarial: Tensor, task: Tensor, feats: Any) -> Tensor | None:
    """Norm of the adversarial loss's gradient at the features, in units of the task's.

    It costs a backward pass through the heads, none through the backbone.

    Args:
        adversarial: An alignment's loss.
        task: The classification loss.
        feats: What went into the head, tensors in tuples or lists.

    Returns:
        A 0-d tensor, infinite where the task has no gradient at all; None where no gradient
        reaches the features, because all below the head is frozen.
    """
    leaves = [leaf for leaf in tree_flatten(feats)[0] if leaf.requires_grad]
    if not leaves or not task.requires_grad:
        return None
    ours, theirs = (_gradient_norm(value, leaves) for value in (adversarial, task))
    return ours / theirs


def gradient_ratios(
    adversaries: Iterable[str], feats: Any, losses: dict[str, Tensor]
) -> dict[str, Tensor]:
    """``<name>_gradient_ratio`` of each adversary, where there is a task to compare with.

    Args:
        adversaries: Names of alignments.
        feats: What went into the head.
        losses: ``loss_cls`` and each ``loss_<name>``.
    """
    if 'loss_cls' not in losses:
        return {}
    found = {
        f'{name}_gradient_ratio': gradient_ratio(losses[f'loss_{name}'], losses['loss_cls'], feats)
        for name in adversaries
    }
    return {key: ratio for key, ratio in found.items() if ratio is not None}


@torch.compiler.disable
def feature_health(features: Tensor) -> dict[str, Tensor]:
    """Mean norm, effective rank and relative spread of a batch of features.

    Args:
        features: Of both domains, (N, D).
    """
    features = features.detach().float()
    # A decomposition raises on what isn't finite, and training under a loss scale goes on then.
    rank = effective_rank(features.nan_to_num())
    return {
        'feature_norm': features.norm(dim=1).mean(),
        'feature_rank': torch.where(features.isfinite().all(), rank, torch.nan),
        'feature_spread': relative_spread(features),
    }


def _gradient_norm(value: Tensor, leaves: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(value * _LIFT, leaves, retain_graph=True, allow_unused=True)
    squares = [grad.float().square().sum() for grad in gradients if grad is not None]
    return torch.stack(squares).sum().sqrt() if squares else value.new_zeros(())
