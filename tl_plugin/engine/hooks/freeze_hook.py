"""Freeze a part of any model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.model_wrappers import parameters
from tl_plugin.stack.options import checked

from ..freezing.checks import GradientCheck, check_ranks_equal, let_gradients_pass
from ..freezing.policy import FreezePolicy, FrozenModes
from ..freezing.trainable import refuse_unsupported, set_trainable
from ..layers import LayerMap
from ..layers.selection import LayerSpec


@HOOKS.register_module()
class FreezeHook(Hook):
    """Freeze a part of any model by depth, name or kind of module, under any launcher.

    Frozen weights don't change, cost no backward pass below the first trained layer and no
    traffic between ranks. By default all norm, dropout and stochastic-depth layers in the part
    are in eval mode too, so that the part's output is a fixed function of its input. The
    optimizer holds frozen parameters too, so that checkpoints fit whatever is frozen.
    A backbone's own ``frozen_stages`` is switched off.

    Several of these hooks share a model: what any of them holds is frozen.

    Args:
        layers: Depths to freeze: ``3``, ``':-1'`` (all but neck and head), ``'0:4'``, or a list
            of these. Defaults to None, none by depth.
        patterns: Regular expressions, searched for in parameter names. Defaults to None.
        modules: Class names of modules: ``'BatchNorm2d'``. What any of the three selects is
            frozen. Defaults to None.
        norm: ``'eval'`` keeps the running statistics of frozen norm layers, ``'train'`` lets them
            follow the data. Defaults to ``'eval'``.
        norm_affine: ``'trained'`` goes on training the affine weights of norm layers in the
            frozen part. Defaults to ``'frozen'``.
        dropout: ``'train'`` leaves dropout in the frozen part on. Defaults to ``'eval'``.
        droppath: ``'train'`` leaves stochastic depth there on. Defaults to ``'eval'``.
        check_ranks: Check after the first step, and before each later change of what trains,
            that all ranks hold equal weights. Defaults to False.

    Raises:
        ValueError: Nothing is selected (the nearest names are listed), all is, or two hooks
            disagree about a parameter.

    Example:
        >>> # in a config
        >>> custom_hooks = [dict(type='FreezeHook', layers=':-1')]
        >>> custom_hooks = [dict(type='FreezeHook', layers='0:4'),
        ...                 dict(type='FreezeHook', patterns=[r'cls_token'], dropout='train')]
    """

    # Before all other hooks: these see a model of which it is decided what trains, and modes are
    # set after `model.train()`, which the loops call right before `before_train_iter`.
    priority = 'HIGHEST'

    #: Whether the part stays the same through the run.
    fixed = True

    @checked
    def __init__(
        self,
        layers: LayerSpec | None = None,
        patterns: str | Sequence[str] | None = None,
        modules: str | Sequence[str] | None = None,
        norm: str = 'eval',
        norm_affine: str = 'frozen',
        dropout: str = 'eval',
        droppath: str = 'eval',
        check_ranks: bool = False,
    ) -> None:
        if layers is None and patterns is None and modules is None:
            raise ValueError(
                f"{type(self).__name__} selects nothing: give layers (':-1' is all "
                'but the head), patterns or modules.'
            )
        self.selection = dict(layers=layers, patterns=patterns, modules=modules)
        self.policy = FreezePolicy(norm, norm_affine, dropout, droppath)
        self.check_ranks = check_ranks
        self.initially_frozen: frozenset[str] = frozenset()
        self.part: frozenset[str] = frozenset()
        self._modes: FrozenModes | None = None
        self._changed = False
        self._gradients: GradientCheck | None = None
        self._checks_in = 0

    def select(self, layer_map: LayerMap) -> list[str]:
        """Name the parameters that this hook freezes at the start.

        Args:
            layer_map: The layers of the model.
        """
        return layer_map.select(**self.selection)

    def before_run(self, runner: Runner) -> None:
        """Freeze, once the optimizer holds every parameter."""
        if self.initially_frozen or not isinstance(runner._train_loop, BaseLoop):
            return  # a test run, or one more run of the same runner
        refuse_unsupported(runner)
        self.layer_map = LayerMap.from_model(runner.model)
        self.initially_frozen = frozenset(self.select(self.layer_map))
        refuse_overlaps(_freeze_hooks(runner))
        let_gradients_pass(runner.model, runner.cfg.get('activation_checkpointing'))
        self.hold(runner, self.initially_frozen, 'before the run')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Set the modes again: the loop has just called ``model.train()``."""
        self.apply_modes(runner)
        if self._changed:
            self._changed = False
            self._gradients = GradientCheck(runner.model)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Check gradients and ranks after the first step that follows a change."""
        if self._gradients is not None:
            self._gradients.finish()
            self._gradients = None
        if self._checks_in:
            self._checks_in -= 1
            if not self._checks_in:
                check_ranks_equal(runner.model, f'after iteration {runner.iter}')

    def hold(self, runner: Runner, part: Collection[str], occasion: str) -> None:
        """Freeze exactly a part, beside what other hooks hold.

        Args:
            runner: The runner.
            part: Names of parameters.
            occasion: When this is, for the log: ``'before the run'``.
        """
        if self.check_ranks:
            check_ranks_equal(runner.model, occasion)
        self.part = frozenset(part)
        hooks = _freeze_hooks(runner)
        changed = set_trainable(
            runner,
            {name for hook in hooks for name in hook.policy.frozen_names(runner.model, hook.part)},
        )
        for hook in hooks:
            # Wrapping with SyncBatchNorm creates new norm modules: find those of all hooks again.
            hook._modes = FrozenModes(runner.model, hook.part, hook.policy)
        self._changed = self._changed or changed
        if changed:
            self._log(runner, occasion)
            if self.check_ranks:
                self._checks_in = getattr(runner.optim_wrapper, '_accumulative_counts', 1)

    def apply_modes(self, runner: Runner) -> None:
        """Set the modes of all frozen parts."""
        for hook in _freeze_hooks(runner):
            if hook._modes is not None:
                hook._modes.apply()

    def _log(self, runner: Runner, occasion: str) -> None:
        values = parameters(runner.model)
        frozen = [value for value in values.values() if not value.requires_grad]
        message = (
            f'{type(self).__name__}, {occasion}: {len(frozen)} of {len(values)} parameters '
            f'are frozen, {sum(v.numel() for v in frozen):,} of '
            f'{sum(v.numel() for v in values.values()):,} weights.'
        )
        if self.part:
            message += (
                f' Norm layers there: {self.policy.norm}, affine '
                f'{self.policy.norm_affine}; dropout: {self.policy.dropout}; droppath: '
                f'{self.policy.droppath}.'
            )
        print_log(message, logger='current')


def refuse_overlaps(hooks: Sequence[FreezeHook]) -> None:
    """Check that no two hooks disagree about a parameter.

    Args:
        hooks: Hooks, with the parameters that they freeze.

    Raises:
        ValueError: If two do.
    """
    for one, other in combinations(hooks, 2):
        shared = one.initially_frozen & other.initially_frozen
        if shared and not (one.fixed and other.fixed and one.policy == other.policy):
            raise ValueError(
                f'{type(one).__name__} and {type(other).__name__} both decide about '
                f'{len(shared)} parameters, {min(shared)} among them, and not alike. Give '
                'each hook layers of its own, or drop one of the two.'
            )


def _freeze_hooks(runner: Runner) -> list[FreezeHook]:
    return [hook for hook in runner.hooks if isinstance(hook, FreezeHook)]
