"""Sets aside the freezing that many mmpretrain backbones do by themselves."""

from __future__ import annotations

import inspect
import logging

from mmengine.logging import print_log
from torch import nn

from tl_plugin.stack.model_wrappers import parameters


def set_aside_frozen_stages(model: nn.Module) -> set[str]:
    """Switch off ``frozen_stages`` wherever a backbone uses it.

    Such a backbone freezes its stages again on every ``train()``, that is in every epoch or
    iteration, and would undo whatever else decides about them.

    Args:
        model: The unwrapped model.

    Returns:
        Names of the parameters that ``frozen_stages`` kept from training, and that it doesn't
        any more. Their ``requires_grad`` is left for the caller to set.
    """
    names = {id(value): name for name, value in parameters(model).items()}
    stopped: set[str] = set()
    for path, module in model.named_modules():
        if not _freezes_itself(module):
            continue
        held = {names[id(value)] for value in _held_by_stages(module)}
        print_log(
            f'{type(module).__name__}.frozen_stages={module.frozen_stages} of `{path}` is set '
            f'aside: from here on the hooks alone decide what trains. It had frozen {len(held)} '
            f'parameters{_examples(held)}.',
            logger='current',
            level=logging.WARNING,
        )
        module.frozen_stages = -1
        stopped |= held
    return stopped


def _freezes_itself(module: nn.Module) -> bool:
    stages = getattr(module, 'frozen_stages', None)
    if not isinstance(stages, int) or not callable(getattr(module, '_freeze_stages', None)):
        return False
    # 0 is one stage where -1 stands for none (ResNet), and none where 0 is the default (ViT).
    return stages > 0 or (stages == 0 and _default_stages(type(module)) == -1)


def _default_stages(kind: type) -> int | None:
    for base in kind.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get('frozen_stages')
        if parameter is not None:
            return parameter.default
    return None


def _held_by_stages(module: nn.Module) -> list[nn.Parameter]:
    """Find what is frozen now and would be frozen by `_freeze_stages` alone."""
    before = [(value, value.requires_grad) for value in module.parameters()]
    for value, _ in before:
        value.requires_grad_(True)
    module._freeze_stages()
    held = [value for value, trained in before if not trained and not value.requires_grad]
    for value, trained in before:
        value.requires_grad_(trained)
    return held


def _examples(names: set[str], count: int = 3) -> str:
    shown = sorted(names)[:count]
    return f' ({", ".join(shown)}{", ..." if len(names) > count else ""})' if shown else ''
