"""Freezes layers whose learning rate is too small to matter."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.stack.model_wrappers import parameters
from tl_plugin.stack.options import checked

from ..freezing.checks import let_gradients_pass
from ..freezing.trainable import optimizers, refuse_unsupported
from ..layers import LayerMap
from ..layers.selection import LayerSpec
from .freeze_hook import FreezeHook, _freeze_hooks, refuse_overlaps


@HOOKS.register_module()
class SlowLayersFreezeHook(FreezeHook):
    """Freeze what would train at less than a share of the fastest learning rate.

    Layer-wise rates (``LayerwiseLROptimWrapperConstructor``, ``RelativeGradientNormHook``) leave
    some layers rates at which they hardly move. Frozen, they cost no gradient, and those below the
    first trained layer no backward pass, as with timm's ``layer_decay_no_opt_scale``. Rates are
    those before any schedule; a resumed run reads them from the checkpoint.

    Args:
        min_rate: Share of the largest learning rate, in (0, 1). Defaults to 0.01.
        norm: As in ``FreezeHook``; norms of frozen layers follow the data by default, as they would
            in a layer that trains slowly. Defaults to ``'train'``.
        dropout: As in ``FreezeHook``. Defaults to ``'train'``.
        droppath: As in ``FreezeHook``. Defaults to ``'train'``.
        check_ranks: As in ``FreezeHook``. Defaults to False.

    Raises:
        ValueError: If ``min_rate`` is out of its range.
    """

    @checked
    def __init__(
        self,
        min_rate: float = 0.01,
        norm: str = 'train',
        dropout: str = 'train',
        droppath: str = 'train',
        check_ranks: bool = False,
    ) -> None:
        if not 0 < min_rate < 1:
            raise ValueError(
                f'SlowLayersFreezeHook: min_rate is a share of the largest learning rate in '
                f'(0, 1), got {min_rate}'
            )
        everything: LayerSpec = ':'
        super().__init__(
            everything, norm=norm, dropout=dropout, droppath=droppath, check_ranks=check_ranks
        )
        self.min_rate = min_rate

    def before_run(self, runner: Runner) -> None:
        """Leave all layers as they are: rates are known when training begins."""

    def before_train(self, runner: Runner) -> None:
        """Freeze, now that rates are final."""
        refuse_unsupported(runner)
        self.layer_map = LayerMap.from_model(runner.model)
        self.initially_frozen = frozenset(slow_parameters(runner, self.min_rate))
        refuse_overlaps(_freeze_hooks(runner))
        if self.initially_frozen:
            let_gradients_pass(runner.model, runner.cfg.get('activation_checkpointing'))
            self.hold(runner, self.initially_frozen, f'rates below {self.min_rate:.2%}')


def slow_parameters(runner: Any, min_rate: float) -> list[str]:
    """Name the parameters whose rate is less than a share of the largest one that trains."""
    rates = {
        id(value): group.get('initial_lr', group['lr'])
        for optimizer in optimizers(runner)
        for group in optimizer.param_groups
        for value in group['params']
    }
    values = parameters(runner.model)
    trained = [rates[id(v)] for v in values.values() if v.requires_grad and id(v) in rates]
    least = min_rate * max(trained, default=0.0)
    return [
        name
        for name, value in values.items()
        if value.requires_grad and rates.get(id(value), least) < least
    ]
