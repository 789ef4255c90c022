"""Keep mmengine from overwriting the pretrained weights of timm and other models."""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmpretrain.models import HuggingFaceClassifier, TimmClassifier
from torch import nn

#: Libraries whose models come initialised or with weights, and still offer ``init_weights``.
FOREIGN_LIBRARIES = ('timm', 'transformers', 'torchvision')


def protect_pretrained(model: nn.Module) -> list[str]:
    """Keep foreign models inside a model from being initialised a second time.

    ``BaseModule.init_weights``, which ``Runner.train()`` calls, calls the ``init_weights`` of every
    child that has one. A timm model has one, and with it loses the weights that it was built with.
    Marked as initialised it is left alone. ``init_cfg`` of the modules around it still counts.

    Args:
        model: Any model.

    Returns:
        Names of the modules that are now protected and weren't before.
    """
    protected = []
    for name, module in model.named_modules():
        if isinstance(module, BaseModule):
            for child_name, child in module.named_children():
                if _initialises_itself(child) and not getattr(child, 'is_init', False):
                    child.is_init = True
                    protected.append(f'{name}.{child_name}'.lstrip('.'))
    if protected:
        print_log(
            f'{", ".join(protected)} of {type(model).__name__} keeps the weights it was '
            'built with: without this, Runner.train() would overwrite them.',
            logger='current',
        )
    return protected


def _initialises_itself(module: nn.Module) -> bool:
    foreign = any(
        kind.__module__.split('.')[0] in FOREIGN_LIBRARIES for kind in type(module).__mro__
    )
    return foreign and hasattr(module, 'init_weights')


def guard_classifiers() -> None:
    """Make mmpretrain's wrappers of whole foreign models protect these by themselves.

    A hook would come too late: ``FlexibleRunner`` initialises weights before any hook runs.
    """
    for classifier in (TimmClassifier, HuggingFaceClassifier):
        if 'init_weights' not in vars(classifier):
            classifier.init_weights = _init_weights


def _init_weights(self: BaseModule) -> None:
    """Initialise as mmengine does, but for the wrapped model."""
    protect_pretrained(self)
    BaseModule.init_weights(self)
