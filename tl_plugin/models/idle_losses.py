"""Losses that can change no weight, because what they read is frozen."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor


def warn_of_idle_losses(model: Any, feats: Any, losses: dict[str, Tensor]) -> list[str]:
    """Warn of alignments and regularizers that reach no weight of the classifier that trains.

    An adversarial alignment always trains its own discriminator, so that its features are asked.

    Args:
        model: An :class:`AdaptationClassifier`.
        feats: What its ``extract_feat`` returned.
        losses: What its ``loss`` returns.

    Returns:
        Their names.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return []
    named = {**model.alignments, **model.regularizers}
    idle = [name for name in named if not losses[f'loss_{name}'].requires_grad]
    if not model.features_of(feats).requires_grad:
        idle += [name for name, each in model.adversaries().items() if not each.needs_logits]
    if idle:
        print_log(
            f'{", ".join(idle)}: no weight of the classifier that trains now changes what these '
            'losses read, so that they do nothing before layers below the last one are unfrozen. '
            'Leave them out, or leave out what freezes those layers (feature_extraction), or give '
            'the model a neck that trains, as the overlay bottleneck does.',
            logger='current',
            level=logging.WARNING,
        )
    return idle
