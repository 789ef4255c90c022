"""Report what a checkpoint gave the model, and refuse one that gave it nothing."""

from __future__ import annotations

import logging

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from tl_plugin.stack.foreign_weights import extraction_command
from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import state, strip, unwrap, whole
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import training_only

from .checkpoints import resumes, weights_of
from .initial_weights import pretrained_parts, read_pretrained


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Report what a checkpoint gave the model, what was missing, what had another shape.

    This covers the checkpoint of ``load_from``, and those that parts of the model name:
    ``backbone.init_cfg=dict(type='Pretrained', checkpoint=...)``.

    mmengine loads what fits and goes on. This hook refuses a checkpoint of which nothing fits the
    backbone, since the run would start from random weights, and one to resume from that doesn't fit
    as a whole. A classifier of another width keeps its initial weights only with
    ``new_classifier``; so do its averages and the parts that only training needs (an alignment's
    discriminator).

    A new run begins its averages (``EMAHook``) with the weights that the model has at its first
    step. Of a checkpoint with averaged weights it loads these.

    Args:
        new_classifier: Keep the initial weights of a classifier of another width. Strategies for
            new classes set it. Defaults to False: a classifier of another width is an error.
    """

    # Before EMAHook, which takes the weights too.
    priority = 'HIGH'

    @checked
    def __init__(self, new_classifier: bool = False) -> None:
        self.new_classifier = new_classifier

    def before_run(self, runner: Runner) -> None:
        """Compare the model with the checkpoints that its parts name, before mmengine loads them.

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
                with whole(runner.model):
                    self._report_part(name, part, init)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model, before it is loaded.

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
        weights_of(checkpoint, runner._load_from or 'the checkpoint')
        with whole(runner.model):
            self._compare(runner, checkpoint)

    def _compare(self, runner: Runner, checkpoint: dict) -> None:
        model = _unwrapped(runner.model)
        compared = _Comparison(model, checkpoint)
        _check_backbone(model, checkpoint, compared, str(runner._load_from))
        missing = compared.missing
        if resumes(runner) and (compared.misshaped or missing):
            raise ValueError(
                'the checkpoint to resume from does not fit the model: missing '
                f'{short_list(missing, 5)}; of another shape {short_list(compared.misshaped, 5)}. '
                'Resume with the config of that run, or start a new one from its weights with '
                'load_from'
            )
        if resumes(runner):
            _check_optimizer(runner, checkpoint)
        self._renew_classifier(model, compared, checkpoint)
        message = f'Loaded {len(compared.loaded)} of {len(compared.wanted)} tensors.'
        _log(message, compared, warn=bool(missing) and not resumes(runner))

    def before_train(self, runner: Runner) -> None:
        """Copy the model into its averages: EMAHook copied it before it had its weights."""
        if resumes(runner) or not self._reports(runner):
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                # Not strictly: regularizers may have remembered the source model since.
                state = hook.src_model.state_dict()
                hook.ema_model.module.load_state_dict(state, strict=False)

    def _reports(self, runner: Runner) -> bool:
        """Return whether this is the hook that reports: two strategies may add one each."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, LoadReportHook)]
        self.new_classifier = any(hook.new_classifier for hook in hooks)
        return hooks[0] is self

    def _report_part(self, name: str, part: nn.Module, init: dict) -> None:
        path = init['checkpoint']
        where = f'{name or "model"}.init_cfg'
        checkpoint = {'state_dict': read_pretrained(init, where)}
        compared = _Comparison(part, checkpoint)
        if all(n.endswith('num_batches_tracked') for n in compared.loaded):
            wanted, given = list(compared.wanted), list(compared.given)
            raise ValueError(
                f'{where}: nothing in {path} fits {type(part).__name__}: it has '
                f'{short_list(wanted, 3)}, the checkpoint {short_list(given, 3)}. '
                f'{_prefix_advice(wanted, given)}'
            )
        if not name:  # the whole model
            checkpoint = {'state_dict': compared.given}
            _check_backbone(part, checkpoint, compared, path)
            self._renew_classifier(part, compared, checkpoint)
        message = (
            f'{where}: {len(compared.loaded)} of {len(compared.wanted)} tensors come from {path}.'
        )
        if compared.misshaped:
            message += f' Of another shape, at their initial values: {compared.shapes()}.'
        _log(message, compared, warn=bool(compared.missing or compared.misshaped))

    def _renew_classifier(self, model: nn.Module, compared: _Comparison, checkpoint: dict) -> None:
        if not compared.misshaped:
            return
        shapes = compared.shapes()
        renewed = (*_classifier(model), *training_only(model))
        if not all(name.startswith(renewed) for name in compared.misshaped):
            raise ValueError(
                f'the checkpoint is of another network, these have other shapes: {shapes}. Check '
                'the backbone and neck of the config against it'
            )
        if not self.new_classifier:
            raise ValueError(
                f'the classifier of the checkpoint has another width: {shapes}. If the classes are '
                "new, keep its initial weights: custom_hooks=[dict(type='LoadReportHook', "
                'new_classifier=True)], as the strategies feature_extraction and fine_tune do'
            )
        holder = checkpoint.get('state_dict', checkpoint)
        for name in holder:
            if name.removeprefix('module.') in compared.misshaped:
                # Left out, it would be missing for averages, which are loaded strictly.
                holder[name] = compared.wanted[name.removeprefix('module.')].clone()
        print_log(
            f'The classifier keeps its initial weights, as the checkpoint has other classes: '
            f'{shapes}.',
            logger='current',
            level=logging.WARNING,
        )


def _check_optimizer(runner: Runner, checkpoint: dict) -> None:
    """Refuse the state of an optimizer that trained other parameters, or in other groups."""
    if isinstance(runner.optim_wrapper, dict):
        return  # not built yet
    sizes = []
    for optimizer in (checkpoint.get('optimizer') or {}, runner.optim_wrapper.state_dict()):
        groups = [group['params'] for group in optimizer.get('param_groups', ())]
        if not groups or any(type(name) is str for group in groups for name in group):
            return  # one of several optimizers, or of a sharded model
        sizes.append([len(group) for group in groups])
    if sizes[0] != sizes[1]:
        before, now = (f'{sum(one)} parameters in {len(one)} groups' for one in sizes)
        raise ValueError(
            f'the run to resume trained {before}, this one trains {now}: another config, strategy '
            'or optimizer. Resume with those of that run, whose config lies beside its checkpoint, '
            'or start a new one from its weights with load_from'
        )


class _Comparison:
    """Tensors that a model has, by name, and those that a checkpoint gives it."""

    def __init__(self, model: nn.Module, checkpoint: dict) -> None:
        self.wanted = wanted = state(model)
        self.given = given = _weights(model, checkpoint)
        self.misshaped = sorted(
            n for n in given if n in wanted and wanted[n].shape != given[n].shape
        )
        self.loaded = [n for n in given if n in wanted and n not in self.misshaped]
        self.missing = [
            n for n in wanted if n not in given and not n.endswith('num_batches_tracked')
        ]
        self.unused = [n for n in given if n not in wanted]

    def shapes(self) -> str:
        """List the tensors of another shape, with both shapes."""
        listed = []
        for name in self.misshaped:
            own, other = tuple(self.wanted[name].shape), tuple(self.given[name].shape)
            listed.append(f'{name} (model {own}, checkpoint {other})')
        return short_list(listed, 5)


def _log(message: str, compared: _Comparison, warn: bool) -> None:
    if compared.missing:
        names = short_list(compared.missing, 5)
        message += f' Missing in the checkpoint, at their initial values: {names}.'
    if compared.unused:
        message += f' In the checkpoint alone, not used: {short_list(compared.unused, 5)}.'
    print_log(message, logger='current', level=logging.WARNING if warn else logging.INFO)


def _prefix_advice(wanted: list[str], given: list[str]) -> str:
    """Say under which prefix the checkpoint holds the part, if it does."""
    prefix = _prefix(wanted, given)
    if prefix is None:
        return 'Give a checkpoint of this architecture'
    return f'Take that part of it: prefix={prefix!r}'


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model into which mmengine loads, without wrappers and test-time augmentation."""
    model = unwrap(model)
    return unwrap(model.module) if isinstance(model, BaseTTAModel) else model


def _weights(model: nn.Module, checkpoint: dict) -> dict:
    """Return the checkpoint's tensors under the names and in the shapes that the model loads."""
    holder = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): v for name, v in holder.items() if hasattr(v, 'shape')}
    for name, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel):
            continue  # its own hook gathers the weights, which are whole here
        name = strip(name)
        # Networks resize position embeddings here, for example.
        for convert in module._load_state_dict_pre_hooks.values():
            convert(weights, f'{name}.' if name else '', {}, False, [], [], [])
    return weights


def _classifier(model: nn.Module) -> tuple[str, ...]:
    """Return what the names of a classifier's tensors begin with, also in a timm or HF model."""
    inner = getattr(getattr(model, 'model', None), 'default_cfg', None) or {}
    names = inner.get('classifier', 'classifier')
    names = [names] if isinstance(names, str) else list(names or [])
    return ('head.', *(f'model.{name}.' for name in names))


def _check_backbone(model: nn.Module, checkpoint: dict, compared: _Comparison, path: str) -> None:
    wanted = list(compared.wanted)
    backbone = [name for name in wanted if name.startswith('backbone.')]
    backbone = backbone or [name for name in wanted if not name.startswith('head.')]
    if backbone and not set(compared.loaded).intersection(backbone):
        given = [name for name in checkpoint.get('state_dict', checkpoint) if type(name) is str]
        raise ValueError(
            'nothing in the checkpoint fits the backbone: the model has '
            f'{short_list(backbone, 3)}, the checkpoint {short_list(given, 3)}. '
            f'{_backbone_advice(model, backbone, given, path)}'
        )


def _backbone_advice(model: nn.Module, backbone: list[str], given: list[str], path: str) -> str:
    """Say how to use a checkpoint that holds the backbone's weights under other names."""
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
    """Return what precedes the wanted names in the given ones; None if they aren't there."""
    for name in wanted:
        if name in given:
            return ''
        holder = next((other for other in given if other.endswith(f'.{name}')), None)
        if holder is not None:
            return holder[: -len(name)]
    return None
