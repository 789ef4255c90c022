"""What must hold for a trunk's outputs to be computed once, and what to do where it doesn't."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from tl_plugin.stack.model_wrappers import parameters, unwrap
from tl_plugin.stack.protocol import adaptation_model

from ..freezing.policy import modules_of_part
from .cut import Cut
from .moving import moves


def freezing_hooks(runner: Runner) -> list:
    """The hooks that keep a part of the model frozen."""
    return [hook for hook in runner.hooks if hasattr(hook, 'apply_modes')]


def refuse_unfit(runner: Runner) -> None:
    """Raises where features can't be computed once.

    Args:
        runner: With its model in the modes of training.

    Raises:
        NotImplementedError: For sharded and compiled models.
        ValueError: If the frozen part isn't fixed.
    """
    model = unwrap(runner.model)
    kind = type(runner.model).__name__
    if is_model_wrapper(runner.model) and 'DistributedDataParallel' not in kind:
        raise NotImplementedError(
            f'cached features need a model that is whole on each rank, {kind} divides it: use DDP, '
            'or feature_extraction'
        )
    if runner.cfg.get('compile'):
        raise NotImplementedError(
            'cached features go with a model that is not compiled: take `compile` out of the config'
        )
    for hook in freezing_hooks(runner):
        _refuse_moving(hook, model)
    adapting = adaptation_model(model)
    if adapting is not None and adapting.losses_on_images():
        raise ValueError(
            f'the losses {", ".join(adapting.losses_on_images())} look at the images, which cached '
            'features replace: use feature_extraction, which caches nothing, or l2_sp, which looks '
            'at weights alone'
        )
    augments = getattr(model.data_preprocessor, 'batch_augments', None)
    if augments is not None:
        print_log(
            f'Batch augmentations ({", ".join(type(a).__name__ for a in augments.augments)}) mix '
            'images, which cached features are none of any more: they are left out.',
            logger='current',
            level=logging.WARNING,
        )


def _refuse_moving(hook: Any, model: nn.Module) -> None:
    name = type(hook).__name__
    if not hook.fixed:
        raise ValueError(
            f'{name} unfreezes layers during the run, and cached features are of layers that stay '
            'frozen: use FreezeHook, or train without the cache'
        )
    if hook.policy.norm_affine != 'frozen':
        raise ValueError(
            f'{name} has norm_affine={hook.policy.norm_affine!r}: norm layers train from the '
            "shallowest on, and nothing above them is fixed. Set norm_affine='frozen', or use "
            'feature_extraction, which caches nothing'
        )
    for module in modules_of_part(model, hook.part):
        if moves(module):
            raise ValueError(
                f'{name} has norm={hook.policy.norm!r}, dropout={hook.policy.dropout!r}, '
                f'droppath={hook.policy.droppath!r}, and the frozen part has a '
                f'{type(module).__name__} in training mode: its outputs change from step to step. '
                "Set all three to 'eval', or use feature_extraction, which caches nothing"
            )


def tell_cut(model: nn.Module, cut: Cut) -> None:
    """Logs where the forward pass is cut, and how much that saves.

    Args:
        model: The unwrapped model.
        cut: The cut.

    Raises:
        ValueError: If it saves less than half of what is frozen.
    """
    name, covered = cut.name, cut.covered
    values = parameters(model)
    frozen = [n for n, value in values.items() if not value.requires_grad]
    held = [n for n in frozen if any(n.startswith(f'{part}.') for part in covered)]
    every, inside = (sum(values[n].numel() for n in names) for names in (frozen, held))
    left = next((n for n in frozen if n not in held and values[n].ndim > 1), None)
    print_log(
        f'Features are cached behind {name}: {inside:,} of {every:,} frozen weights need not run '
        'any more.',
        logger='current',
    )
    if 2 * inside < every:
        raise ValueError(
            f'features could be cached no further than behind {name}, where {inside:,} of '
            f'{every:,} frozen weights have run; {left} runs behind something that trains. Freeze '
            "from the first layer on (layers=':-1' or '0:4'), or use feature_extraction"
        )
