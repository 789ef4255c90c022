"""What choosing without target labels costs."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.evaluation.add_metrics import add_metrics
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.stack.options import checked

from ..monitors import Monitor

_STATE = 'oracle_gap'
_BETTER = dict(greater=lambda new, old: new > old, less=lambda new, old: new < old)


@HOOKS.register_module()
class OracleGapHook(Hook):
    """Where target labels exist: how much better their choice of the epoch would have been.

    After each validation it adds, for each criterion, ``oracle_gap/<criterion>``: the best value of
    the oracle so far minus its value at the validation that the criterion likes best so far. It
    changes nothing, and ``save_best`` must not be set to it.

    Args:
        criteria: Name of a metric that needs no target label -> 'greater' or 'less' is better.
        oracle: The metric by target labels. Defaults to 'target/accuracy/top1'.
        rule: Whether more of that is 'greater' or 'less' good. Defaults to 'greater'.

    Raises:
        ValueError: If there is no criterion, or a rule is unknown.
        KeyError: If a validation has no metric of such a name.
    """

    # After the hooks that add metrics, before the logger.
    priority = 55

    @checked
    def __init__(
        self,
        criteria: dict[str, str],
        oracle: str = 'target/accuracy/top1',
        rule: str = 'greater',
    ) -> None:
        wrong = sorted({*criteria.values(), rule} - set(_BETTER))
        if not criteria or wrong:
            raise ValueError(
                "OracleGapHook needs criteria=dict(metric='greater' or 'less'), got "
                f'{dict(criteria)} and rule={rule!r}'
            )
        self.criteria = dict(criteria)
        self.oracle = oracle
        self.rule = rule
        #: Name of a metric -> its best value, and the oracle's at that validation.
        self.best: dict[str, list[float]] = {}

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Adds the gaps."""
        metrics = metrics or {}
        for name in (self.oracle, *self.criteria):
            if name not in metrics:
                raise KeyError(
                    f'OracleGapHook: the validation has no metric {name!r}; it has '
                    f'{", ".join(metrics) or "none"}'
                )
        oracle = float(metrics[self.oracle])
        for name, rule in {self.oracle: self.rule, **self.criteria}.items():
            value = float(metrics[name])
            if name not in self.best or _BETTER[rule](value, self.best[name][0]):
                self.best[name] = [value, oracle]
        sign = 1 if self.rule == 'greater' else -1
        gaps = {
            f'oracle_gap/{name}': sign * (self.best[self.oracle][0] - self.best[name][1])
            for name in self.criteria
        }
        add_metrics(runner, metrics, gaps, 'val')

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """What it puts beside the metrics of a validation."""
        return [f'oracle_gap/{name}' for name in self.criteria]

    def awaited_metrics(self, runner: Runner) -> list[Monitor]:
        """What it looks at in a validation."""
        option = 'custom_hooks.OracleGapHook.oracle'
        return [
            Monitor('OracleGapHook', option, self.oracle, (self.oracle,)),
            *(
                Monitor('OracleGapHook', 'custom_hooks.OracleGapHook.criteria', name, (name,))
                for name in self.criteria
            ),
        ]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts the best values into the checkpoint."""
        best = {name: list(values) for name, values in self.best.items()}
        save_hook_state(checkpoint, _STATE, best)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes them out again, of a run that is resumed."""
        if resumes(runner):
            self.best = dict(saved_hook_state(checkpoint, _STATE) or {})
