"""Says what a checkpoint gave the model, and refuses one that gave it nothing."""

from __future__ import annotations

import logging
import re

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Reports what ``load_from`` loaded, what was missing, what had another shape.

    mmengine loads what fits and goes on. Here a checkpoint of which nothing fits the backbone is
    refused, since the run would start from random weights; so is one to resume from that doesn't
    fit whole; and a classifier of another width starts anew only where that is wanted.

    Args:
        new_classifier: A classifier of another width starts anew. Strategies for new classes set
            it. Defaults to False: that is an error.
    """

    # Before EMAHook, which takes the weights too.
    priority = 'HIGH'

    def __init__(self, new_classifier: bool = False) -> None:
        self.new_classifier = new_classifier

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compares the checkpoint with the model, before it is loaded.

        Raises:
            ValueError: If it is not for this model.
        """
        if any(hook.new_classifier for hook in runner.hooks if isinstance(hook, LoadReportHook)):
            self.new_classifier = True
        first = next(hook for hook in runner.hooks if isinstance(hook, LoadReportHook))
        if first is not self:
            return  # two strategies brought one each
        model = _unwrapped(runner.model)
        wanted = model.state_dict()
        given = _weights(model, checkpoint)
        other = {n for n, v in given.items() if n in wanted and wanted[n].shape != v.shape}
        loaded = [n for n in given if n in wanted and n not in other]
        missing = [n for n in wanted if n not in given and not n.endswith('num_batches_tracked')]
        unused = [n for n in given if n not in wanted]
        _check_backbone(wanted, given, set(loaded))
        if runner._resume and (other or missing):
            raise ValueError(
                'the checkpoint to resume from does not fit the model: missing '
                f'{_short(missing)}; of another shape {_short(sorted(other))}. Resume with the '
                'config of that run, or start a new one from its weights with load_from'
            )
        self._renew_classifier(model, given, other, checkpoint)
        message = f'Loaded {len(loaded)} of {len(wanted)} tensors.'
        if missing:
            message += f' Missing in the checkpoint, at their initial values: {_short(missing)}.'
        if unused:
            message += f' In the checkpoint alone, not used: {_short(unused)}.'
        level = logging.WARNING if missing and not runner._resume else logging.INFO
        print_log(message, logger='current', level=level)

    def _renew_classifier(
        self, model: nn.Module, given: dict, other: set, checkpoint: dict
    ) -> None:
        if not other:
            return
        wanted = model.state_dict()
        shapes = _short([
            f'{name} (model {tuple(wanted[name].shape)}, checkpoint {tuple(given[name].shape)})'
            for name in sorted(other)
        ])  # fmt: skip
        strangers = [name for name in other if not name.startswith(_classifier(model))]
        if strangers:
            raise ValueError(
                f'the checkpoint is of another network, these have other shapes: {shapes}. Check '
                'the backbone and neck of the config against it'
            )
        if not self.new_classifier:
            raise ValueError(
                f'the classifier of the checkpoint has another width: {shapes}. If the classes are '
                "new and it shall start anew, say so: custom_hooks=[dict(type='LoadReportHook', "
                'new_classifier=True)], as the strategies feature_extraction and fine_tune do'
            )
        holder = checkpoint.get('state_dict', checkpoint)
        for name in list(holder):
            if _plain(name) in other:
                del holder[name]
        print_log(
            f'The classifier starts anew, for other classes than the checkpoint has: {shapes}.',
            logger='current',
            level=logging.WARNING,
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model into which mmengine loads: not its wrapper, nor that of test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _plain(name: str) -> str:
    return re.sub(r'^module\.', '', name)


def _weights(model: nn.Module, checkpoint: dict) -> dict:
    """The checkpoint's tensors as the model will get to see them."""
    holder = checkpoint.get('state_dict', checkpoint)
    weights = {_plain(name): value for name, value in holder.items() if hasattr(value, 'shape')}
    for name, module in model.named_modules():
        # Networks resize position embeddings here, for example.
        for convert in module._load_state_dict_pre_hooks.values():
            convert(weights, f'{name}.' if name else '', {}, False, [], [], [])
    return weights


def _classifier(model: nn.Module) -> tuple[str, ...]:
    """What the names of a classifier's tensors begin with, also inside a timm or HF model."""
    inner = getattr(getattr(model, 'model', None), 'default_cfg', None) or {}
    names = inner.get('classifier', 'classifier')
    names = [names] if isinstance(names, str) else list(names or [])
    return ('head.', *(f'model.{name}.' for name in names))


def _check_backbone(wanted: dict, given: dict, loaded: set) -> None:
    backbone = [name for name in wanted if name.startswith('backbone.')]
    backbone = backbone or [name for name in wanted if not name.startswith('head.')]
    if backbone and not loaded.intersection(backbone):
        raise ValueError(
            f'nothing in the checkpoint fits the backbone: the model has {_short(backbone, 3)}, '
            f'the checkpoint {_short(list(given), 3)}. Give a checkpoint of this architecture, or '
            "one of a backbone alone as backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )


def _short(names: list[str], limit: int = 5) -> str:
    more = f', ... ({len(names) - limit} more)' if len(names) > limit else ''
    return (', '.join(names[:limit]) or 'nothing') + more
