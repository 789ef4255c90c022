"""A sharpness-aware step on the classification loss alone (SDAT)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tl_plugin.functional import ascent_steps

from .joint_batch import JointBatch
from .second_pass import OTHERS, second_pass

#: Keeps gradients that are small in half precision. The length of the step doesn't depend on it.
_SCALE = 1024.0


def sharpened(
    model: nn.Module, losses: Mapping[str, Tensor], inputs: Tensor, batch: JointBatch, rho: float
) -> dict[str, Tensor]:
    r"""Return classification losses where they are highest near the weights.

    Rangwani et al., "A Closer Look at Smoothness in Domain Adversarial Training" (SDAT), ICML
    2022, arXiv 2206.08213: :math:`R(\theta + \hat\epsilon) + d(\theta)` with the classification
    loss R and all other losses d. Their gradient is that of the weights, at which nothing is
    changed, so that it is scaled, accumulated, clipped and reduced over processes like any other,
    once. Each process looks from its own batch (the SAM paper's m-sharpness), which takes no
    communication, and so does each batch of those whose gradients are accumulated. Running
    statistics don't follow the second pass.

    Args:
        model: An :class:`AdaptationClassifier`.
        losses: Its classification losses of the batch at the weights, with gradient.
        inputs: The images.
        batch: Their samples.
        rho: Radius of the neighbourhood.

    Returns:
        The same losses at the other end of the ascent step.
    """
    weights = {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad and not name.startswith(OTHERS)
    }
    task = sum(value for name, value in losses.items() if 'loss' in name)
    found = torch.autograd.grad(
        _SCALE * task, [*weights.values()], retain_graph=True, allow_unused=True
    )
    reached = [name for name, gradient in zip(weights, found) if gradient is not None]
    steps = ascent_steps([gradient for gradient in found if gradient is not None], rho)
    moved = {name: weights[name] + step for name, step in zip(reached, steps)}
    return second_pass(model, 'classification_losses', inputs, batch, weights=moved)
