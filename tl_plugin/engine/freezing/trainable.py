"""Set which parameters train."""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Collection
from weakref import WeakKeyDictionary

from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from tl_plugin.stack.messages import short_list
from tl_plugin.stack.model_wrappers import parameters, unwrap

from ..layers.selection import nearest_names


def disable_frozen_stages(model: nn.Module) -> set[str]:
    """Switch off ``frozen_stages`` wherever a backbone uses it.

    Such a backbone freezes its stages again on every ``train()``, that is in every epoch or
    iteration, and would undo other decisions about them.

    Args:
        model: The unwrapped model.

    Returns:
        Names of the parameters that ``frozen_stages`` alone has frozen. The caller sets their
        ``requires_grad``.
    """
    names = {id(value): name for name, value in parameters(model).items()}
    stopped: set[str] = set()
    for path, module in model.named_modules():
        if not _freezes_itself(module):
            continue
        held = {names[id(value)] for value in _held_by_stages(module)}
        print_log(
            f'{type(module).__name__}.frozen_stages={module.frozen_stages} of `{path}` is '
            f'switched off: the hooks alone decide what trains. It had frozen {len(held)} '
            f'parameters ({short_list(sorted(held), 3)}).',
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


# The names that this module has frozen, per model: parameters that were frozen elsewhere, such as
# a fixed sine-cosine position embedding, stay frozen.
_FROZEN: WeakKeyDictionary = WeakKeyDictionary()


def set_trainable(runner: Runner, frozen: Collection[str]) -> bool:
    """Freeze exactly these parameters and train all others.

    Parameters that were frozen before by anything but this function stay frozen, with one
    exception: a backbone's own ``frozen_stages`` is switched off.

    Where something changes, a model under DistributedDataParallel is wrapped again, since the
    reducer fixes at construction which gradients it waits for, and a compiled ``train_step`` is
    compiled again. That is collective: call it on all ranks at the same iteration with the same
    names. A FullyShardedDataParallel model reads ``requires_grad`` again in each iteration and
    needs no more.

    Args:
        runner: The runner, with its model wrapped and its optimizer built.
        frozen: Names of parameters of the unwrapped model.

    Returns:
        Whether anything changed.

    Raises:
        ValueError: A name that the model lacks; nothing left to train; a parameter would train
            that no optimizer group holds.
        NotImplementedError: A launcher under which freezing can't be exact.
    """
    refuse_unsupported(runner)
    model = unwrap(runner.model)
    values = parameters(model)
    _check_names(frozen, values)
    ours = _FROZEN.get(model, frozenset()) | disable_frozen_stages(model)
    wanted = {**dict.fromkeys(ours, True), **dict.fromkeys(frozen, False)}
    changed = [name for name, trains in wanted.items() if values[name].requires_grad != trains]
    _check_trained(runner, values, wanted, [name for name in changed if wanted[name]])

    _FROZEN[model] = frozenset(
        name for name in frozen if name in ours or values[name].requires_grad
    )
    for name in changed:
        values[name].requires_grad_(wanted[name])
        if not wanted[name]:
            # A gradient left from accumulation would move the weight once more.
            values[name].grad = None
    if changed and isinstance(runner.model, DistributedDataParallel):
        _wrap_again(runner, model)
    return bool(changed)


def frozen_here(model: nn.Module) -> frozenset[str]:
    """Name the parameters that :func:`set_trainable` has frozen and can unfreeze.

    Args:
        model: The model, with or without its wrapper.
    """
    return _FROZEN.get(unwrap(model), frozenset())


def optimizers(runner: Runner) -> list[Optimizer]:
    """List the torch optimizers of a runner: one, or several in an ``OptimWrapperDict``.

    Args:
        runner: A runner whose ``optim_wrapper`` is built.
    """
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if hasattr(wrapper, 'optim_wrappers') else [wrapper]
    return [wrapper.optimizer for wrapper in wrappers]


def not_in_optimizer(runner: Runner, names: Collection[str]) -> list[str]:
    """Name the parameters that no optimizer group holds.

    Args:
        runner: A runner whose ``optim_wrapper`` is built.
        names: Parameter names of the unwrapped model.
    """
    held = {
        id(value)
        for optimizer in optimizers(runner)
        for group in optimizer.param_groups
        for value in group['params']
    }
    values = parameters(runner.model)
    return [name for name in names if id(values[name]) not in held]


def check_in_optimizer(runner: Runner, names: Collection[str]) -> None:
    """Check that parameters which train now or later can be changed by the optimizer.

    Args:
        runner: A runner whose ``optim_wrapper`` is built.
        names: Parameter names of the unwrapped model.

    Raises:
        ValueError: No optimizer group holds some of them.
    """
    missing = not_in_optimizer(runner, names)
    if missing:
        raise ValueError(
            f'{len(missing)} parameters are to train but no optimizer group holds them, so that '
            f'they would never change: {short_list(missing, 5)}. The optimizer constructor left '
            'them out because they were frozen when it ran. Use optim_wrapper.constructor='
            "'LayerwiseLROptimWrapperConstructor', which holds every parameter, or take "
            'frozen_stages out of the config.'
        )


def refuse_unsupported(runner: Runner) -> None:
    """Raise a clear error under launchers that fix what trains when they start.

    Raises:
        NotImplementedError: DeepSpeed, ColossalAI, FSDP without ``use_orig_params``, separate
            DDP wrappers per child.
    """
    kind = type(runner.model).__name__
    strategy = type(getattr(runner, 'strategy', None)).__name__
    fix = None
    if 'DeepSpeed' in kind + strategy or 'ColossalAI' in kind + strategy:
        fix = (
            'it divides the optimizer among the ranks once, when it starts, by what trains '
            'then. Use DDP or FSDP, or freeze before the model is built'
        )
    elif kind == 'MMSeparateDistributedDataParallel':
        fix = 'each child has a reducer of its own. Use MMDistributedDataParallel'
    if fix:
        raise NotImplementedError(f'Freezing and unfreezing do not work with {kind}: {fix}.')
    refuse_flattened(runner.model)


def refuse_flattened(model: nn.Module) -> None:
    """Raise a clear error for FSDP that hides the parameters of a model.

    Args:
        model: The model, with its wrapper.

    Raises:
        NotImplementedError: FSDP without ``use_orig_params``.
    """
    if getattr(model, '_use_orig_params', True) is False:
        raise NotImplementedError(
            f'{type(model).__name__} has flattened the parameters, so that layers can neither be '
            'frozen nor have learning rates of their own. Set use_orig_params=True in the model '
            'wrapper.'
        )


def _check_names(frozen: Collection[str], values: dict[str, nn.Parameter]) -> None:
    unknown = sorted(set(frozen) - set(values))
    if unknown:
        raise ValueError(
            f'The model has no parameter {unknown[0]!r} to freeze ({len(unknown)} '
            f'unknown names). {nearest_names(unknown[0], values)}'
        )


def _check_trained(
    runner: Runner, values: dict[str, nn.Parameter], wanted: dict[str, bool], thawed: list[str]
) -> None:
    if not any(wanted.get(name, value.requires_grad) for name, value in values.items()):
        raise ValueError(
            f'All {len(values)} parameters would be frozen and nothing would train. Leave out the '
            "deepest layer, the head: layers=':-1'."
        )
    check_in_optimizer(runner, thawed)


def _wrap_again(runner: Runner, model: nn.Module) -> None:
    strategy = getattr(runner, 'strategy', None)
    options = getattr(runner, '_compile', None) if strategy else runner.cfg.get('compile')
    options = dict(options) if isinstance(options, dict) else {}
    target = options.setdefault('target', 'train_step')
    compiled = target in vars(runner.model)
    # The old reducer's buckets are as large as the gradients: give them back before the new
    # ones are made. They are part of a reference cycle.
    runner.model = model
    if strategy:
        strategy.model = model
    gc.collect()
    if strategy:
        strategy.model = runner.model = strategy._wrap_model(model)
        if compiled:
            strategy.compile_model(runner.model, compile=options)
    else:
        runner.model = runner.wrap_model(runner.cfg.get('model_wrapper_cfg'), model)
        if compiled:
            runner._maybe_compile(target)
