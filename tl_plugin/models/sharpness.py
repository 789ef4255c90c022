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
#: What backbones call the recomputation of activations.
_RECOMPUTES = ('with_cp', 'use_checkpoint', 'grad_checkpointing', 'gradient_checkpointing')


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


def check_sharpness(model: nn.Module) -> None:
    """Check that a pass at other weights can be differentiated. Call it in a training forward.

    Args:
        model: An :class:`AdaptationClassifier`.

    Raises:
        ValueError: If a module computes its activations again in the backward pass, or FSDP has
            put something else in the place of the weights.
    """
    if not all(isinstance(value, nn.Parameter) for value in model.parameters()):
        raise ValueError(
            'sdat computes a second pass at other weights (model.sharpness_rho), and FSDP shares '
            'the weights out among the processes: leave it out, or train by DDP'
        )
    for name, module in model.named_modules():
        values = vars(module)
        names = [key for key in _RECOMPUTES if values.get(key) is True]
        # mmengine's wrapper of a forward calls itself what it wraps.
        wrapper = getattr(values.get('forward'), '__globals__', {})
        if wrapper.get('__name__') == 'mmengine.runner.activation_checkpointing':
            names = ['activation_checkpointing']
        if names:
            raise ValueError(
                f'sdat computes a second pass at other weights (model.sharpness_rho), and '
                f'{name or type(module).__name__} computes its activations again in the backward '
                f'pass ({names[0]}), when these weights are gone: switch off one of the two'
            )
