"""Says what a checkpoint gave the model, and refuses one that gave it nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS
from torch import nn

from tl_plugin.stack.foreign_weights import extraction_command
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import training_only

from .checkpoints import resumes, weights_of
from .pretrained import pretrained_parts, read_pretrained


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Reports what a checkpoint gave the model, what was missing, what had another shape.

    That is the one of ``load_from``, and those that parts of the model name for themselves,
    ``backbone.init_cfg=dict(type='Pretrained', checkpoint=...)``.

    mmengine loads what fits and goes on. Here a checkpoint of which nothing fits the backbone is
    refused, since the run would start from random weights; so is one to resume from that doesn't
    fit whole; and a classifier of another width starts new only where that is wanted, averages of
    it and what serves training alone (an alignment's discriminator) with it.

    A new run begins its averages (``EMAHook``) from the weights that it begins with: those of
    the model as its first step finds it. Of a checkpoint with averaged weights it takes these.

    Args:
        new_classifier: A classifier of another width starts anew. Strategies for new classes set
            it. Defaults to False: that is an error.
    """

    # Before EMAHook, which takes the weights too.
    priority = 'HIGH'

    @checked
    def __init__(self, new_classifier: bool = False) -> None:
        self.new_classifier = new_classifier

    def before_run(self, runner: Runner) -> None:
        """Compares what parts of the model will begin with, before mmengine loads it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If nothing in it fits.
        """
        if not isinstance(runner._train_loop, BaseLoop) or not self._reports(runner):
            return  # a test run loads nothing but `load_from`
        model = _unwrapped(runner.model)
        reported = []
        for name, part, init in pretrained_parts(model):
            if init not in reported:  # a teacher begins as its student
                reported.append(init)
                self._report_part(name, part, init)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compares the checkpoint with the model, before it is loaded.

        Raises:
            ValueError: If it is not for this model.
        """
        if not self._reports(runner):
            return
        averaged = 'ema_state_dict' in checkpoint
        if averaged and isinstance(runner._train_loop, BaseLoop) and not resumes(runner):
            del checkpoint['ema_state_dict']
            # mmengine keeps the averaged weights under state_dict, the others apart. mmpretrain's
            # EMAHook would exchange them, name by name, for a model that may have another head.
            print_log(
                'The checkpoint holds averaged weights: the run begins with these.',
                logger='current',
            )
        model = _unwrapped(runner.model)
        wanted = model.state_dict()
        weights_of(checkpoint, runner._load_from or 'the checkpoint')
        given = _weights(model, checkpoint)
        other = {n for n, v in given.items() if n in wanted and wanted[n].shape != v.shape}
        loaded = [n for n in given if n in wanted and n not in other]
        missing = [n for n in wanted if n not in given and not n.endswith('num_batches_tracked')]
        unused = [n for n in given if n not in wanted]
        _check_backbone(model, checkpoint, set(loaded), str(runner._load_from))
        if resumes(runner) and (other or missing):
            raise ValueError(
                'the checkpoint to resume from does not fit the model: missing '
                f'{_short(missing)}; of another shape {_short(sorted(other))}. Resume with the '
                'config of that run, or start a new one from its weights with load_from'
            )
        self._renew_classifier(model, given, other, checkpoint)
        _log(
            f'Loaded {len(loaded)} of {len(wanted)} tensors.',
            missing,
            unused,
            warn=bool(missing) and not resumes(runner),
        )

    def before_train(self, runner: Runner) -> None:
        """Lets averages begin with the model: EMAHook copied it before it had its weights."""
        if resumes(runner) or not self._reports(runner):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                # Not strictly: regularizers may have remembered the source model since.
                state = hook.src_model.state_dict()
                hook.ema_model.module.load_state_dict(state, strict=False)

    def _reports(self, runner: Runner) -> bool:
        """Whether it is this hook that does so: two strategies may have brought one each."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, LoadReportHook)]
        self.new_classifier = any(hook.new_classifier for hook in hooks)
        return hooks[0] is self

    def _report_part(self, name: str, part: nn.Module, init: dict) -> None:
        path = init['checkpoint']
        where = f'{name or "model"}.init_cfg'
        given = _weights(part, {'state_dict': read_pretrained(init, where)})
        wanted = part.state_dict()
        other = {n for n, v in given.items() if n in wanted and wanted[n].shape != v.shape}
        loaded = [n for n in given if n in wanted and n not in other]
        if not any(not n.endswith('num_batches_tracked') for n in loaded):
            raise ValueError(
                f'{where}: nothing in {path} fits {type(part).__name__}: it has '
                f'{_short(list(wanted), 3)}, the checkpoint {_short(list(given), 3)}. '
                f'{_prefix_cure(wanted, given)}'
            )
        if not name:  # the whole model
            _check_backbone(part, {'state_dict': given}, set(loaded), path)
            self._renew_classifier(part, given, other, {'state_dict': given})
        missing = [n for n in wanted if n not in given and not n.endswith('num_batches_tracked')]
        message = f'{where}: {len(loaded)} of {len(wanted)} tensors come from {path}.'
        if other:
            shapes = _shapes(wanted, given, other)
            message += f' Of another shape, at their initial values: {shapes}.'
        _log(message, missing, [n for n in given if n not in wanted], bool(missing or other))

    def _renew_classifier(
        self, model: nn.Module, given: dict, other: set, checkpoint: dict
    ) -> None:
        if not other:
            return
        shapes = _shapes(model.state_dict(), given, other)
        renewed = (*_classifier(model), *training_only(model))
        strangers = [name for name in other if not name.startswith(renewed)]
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
        holder, own = checkpoint.get('state_dict', checkpoint), model.state_dict()
        for name in holder:
            if _plain(name) in other:  # left out, an average loaded strictly would miss them
                holder[name] = own[_plain(name)].clone()
        print_log(
            f'The classifier starts anew, for other classes than the checkpoint has: {shapes}.',
            logger='current',
            level=logging.WARNING,
        )


def _log(message: str, missing: list[str], unused: list[str], warn: bool) -> None:
    if missing:
        message += f' Missing in the checkpoint, at their initial values: {_short(missing)}.'
    if unused:
        message += f' In the checkpoint alone, not used: {_short(unused)}.'
    print_log(message, logger='current', level=logging.WARNING if warn else logging.INFO)


def _shapes(wanted: dict, given: dict, names: Iterable[str]) -> str:
    return _short(
        [
            f'{name} (model {tuple(wanted[name].shape)}, checkpoint {tuple(given[name].shape)})'
            for name in sorted(names)
        ]
    )


def _prefix_cure(wanted: dict, given: dict) -> str:
    """Says under which name the checkpoint holds the part, if it does."""
    prefix = _prefix(list(wanted), list(given))
    if prefix is None:
        return 'Give a checkpoint of this architecture'
    return f'Take that part of it: prefix={prefix!r}'


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
    weights = {_plain(name): v for name, v in holder.items() if hasattr(v, 'shape')}
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


def _check_backbone(model: nn.Module, checkpoint: dict, loaded: set, path: str) -> None:
    wanted = list(model.state_dict())
    backbone = [name for name in wanted if name.startswith('backbone.')]
    backbone = backbone or [name for name in wanted if not name.startswith('head.')]
    if backbone and not loaded.intersection(backbone):
        given = [name for name in checkpoint.get('state_dict', checkpoint) if type(name) is str]
        raise ValueError(
            f'nothing in the checkpoint fits the backbone: the model has {_short(backbone, 3)}, '
            f'the checkpoint {_short(given, 3)}. {_backbone_cure(model, backbone, given, path)}'
        )


def _backbone_cure(model: nn.Module, backbone: list[str], given: list[str], path: str) -> str:
    """Says how a checkpoint serves that holds the backbone's weights under other names."""
    prefix = _prefix(backbone, given)
    if prefix is not None:
        return (
            f'They begin with {prefix!r} there. This cuts it off; give the file that it '
            f'writes:\n  {extraction_command(path, prefix=prefix)}'
        )
    part = getattr(model, 'backbone', None)
    if isinstance(part, nn.Module) and hasattr(part, 'initial_weights'):
        inner = next(name for name, _ in part.named_children())
        if _prefix([name[len(f'backbone.{inner}.') :] for name in backbone], given) is not None:
            return (
                'It fits the network in the backbone, which takes it as '
                f'model.backbone.checkpoint_path={path!r}, in place of load_from and of other '
                'weights (pretrained, weights)'
            )
    prefix = _prefix([name[len('backbone.') :] for name in backbone], given)
    if prefix is not None and isinstance(part, nn.Module):
        of = f', prefix={prefix!r}' if prefix else ''
        return (
            'It is one of a backbone alone, which takes it in place of load_from as '
            f"model.backbone.init_cfg=dict(type='Pretrained', checkpoint={path!r}{of})"
        )
    return 'Give a checkpoint of this architecture'


def _prefix(wanted: list[str], given: list[str]) -> str | None:
    """What stands before the wanted names among those given; None if they aren't there."""
    for name in wanted:
        if name in given:
            return ''
        holder = next((other for other in given if other.endswith(f'.{name}')), None)
        if holder is not None:
            return holder[: -len(name)]
    return None


def _short(names: list[str], limit: int = 5) -> str:
    more = f', ... ({len(names) - limit} more)' if len(names) > limit else ''
    return (', '.join(names[:limit]) or 'nothing') + more
