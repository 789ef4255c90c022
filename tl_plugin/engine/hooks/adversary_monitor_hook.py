"""Watches over adversarial alignments."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import adaptation_model

from ..adversary import AdversaryMonitor, HealthLimits

_STATE = 'adversary_monitor'
_FEATURES = ('feature_norm', 'feature_rank', 'feature_spread')


@HOOKS.register_module()
class AdversaryMonitorHook(Hook):
    """Says whether adversarial training is well, by name, and backs off if it is allowed to.

    Every ``interval`` iterations it logs, of each adversary (DANN, CDAN, MDD), its gradient at the
    features in units of the classification loss's, ``<name>_gradient_ratio``, and of the features
    ``feature_norm``, ``feature_rank`` (effective rank) and ``feature_spread`` (distance to their
    mean, relative to their norm). It warns, once as each begins and again when it is over:

    - the discriminator is dead: never better than chance
    - the discriminator is not fooled: right in more than 95% while it pulls with half its strength
    - the adversary drowns the task: its gradient is more than 10 times the task's
    - the features have collapsed: one point, few directions, or no norm

    Where several overlays bring one, the first watches over all. A measurement costs a backward
    pass through the heads alone. Its state is in the checkpoint.

    Args:
        interval: Iterations from one measurement to the next. Defaults to 50.
        patience: How many measurements in a row make a verdict. Defaults to 3.
        backoff: Factor in (0, 1) on the gradient-reversal weight at each verdict that features have
            collapsed or the task is drowned; it is taken back in as many steps once that is over.
            Defaults to None: warn only.
        min_factor: The least product of these factors. Defaults to 0.01.
        limits: Other limits of what is healthy, see :class:`HealthLimits`. Defaults to None.

    Raises:
        ValueError: If an argument is out of its range, or the model has no adversary.
    """

    # Before the logger, so that what it logs is there; after the step.
    priority = 'NORMAL'

    @checked
    def __init__(
        self,
        interval: int = 50,
        patience: int = 3,
        backoff: float | None = None,
        min_factor: float = 0.01,
        limits: dict[str, float] | None = None,
    ) -> None:
        if interval < 1 or patience < 1:
            raise ValueError(
                f'AdversaryMonitorHook: interval and patience must be at least 1, got {interval} '
                f'and {patience}'
            )
        if backoff is not None and not 0 < backoff < 1:
            raise ValueError(f'AdversaryMonitorHook: backoff must be in (0, 1), got {backoff}')
        if not 0 <= min_factor <= 1:
            raise ValueError(
                f'AdversaryMonitorHook: min_factor must be in [0, 1], got {min_factor}'
            )
        known = HealthLimits.__dataclass_fields__
        unknown = sorted(set(limits or {}) - set(known))
        if unknown:
            raise ValueError(
                f'AdversaryMonitorHook has the limits {", ".join(known)}, got {", ".join(unknown)}'
            )
        self.interval = interval
        self._settings = (HealthLimits(**(limits or {})), patience, backoff, min_factor)
        self.monitors: dict[str, AdversaryMonitor] = {}
        self._sums: dict[str, torch.Tensor | float] = {}
        self._watches = True
        self._loaded: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the adversaries, and continue from the state of a resumed run."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, AdversaryMonitorHook)]
        self._watches = hooks[0] is self
        if not self._watches:
            return
        model = adaptation_model(runner.model)
        adversaries = model.adversaries() if model is not None else {}
        if not adversaries:
            raise ValueError(
                f'AdversaryMonitorHook: this {type(unwrap(runner.model)).__name__} has no '
                'adversarial alignment to watch; add one (--strategy dann), or take the hook away'
            )
        self.monitors = {name: AdversaryMonitor(*self._settings) for name in adversaries}
        self._sums = {}
        if self._loaded is not None:
            for name, state in self._loaded['monitors'].items():
                if name in self.monitors:
                    self.monitors[name].state = state
            self._sums = dict(self._loaded['sums'])
        for name, monitor in self.monitors.items():
            adversaries[name].set_backoff(monitor.factor)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Has the model measure in the iterations that end an interval."""
        if self._watches:
            due = self.every_n_train_iters(runner, self.interval)
            unwrap(runner.model).measure_health(due)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add up the accuracies, and judge at the end of an interval."""
        for name in self.monitors:
            accuracy = outputs.get(f'{name}_accuracy')
            if accuracy is not None:
                # On its device: nothing waits for the number before it is needed.
                self._sums[name] = self._sums.get(name, 0.0) + accuracy
        if self._watches and _FEATURES[0] in outputs:
            self._judge(runner, _mean_over_ranks(self._measured(outputs)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the state in the checkpoint."""
        if not self._watches:
            return
        state = dict(
            monitors={name: dict(monitor.state) for name, monitor in self.monitors.items()},
            sums={name: float(value) for name, value in self._sums.items()},
        )
        save_hook_state(checkpoint, _STATE, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Load it from the checkpoint of a resumed run."""
        if resumes(runner):
            self._loaded = saved_hook_state(checkpoint, _STATE)

    def _measured(self, outputs: dict) -> dict[str, Any]:
        keys = [key for key in outputs if key.endswith('_gradient_ratio')]
        found = {key: outputs[key] for key in (*keys, *_FEATURES)}
        found.update({f'{name}_accuracy': total for name, total in self._sums.items()})
        return found

    def _judge(self, runner: Runner, measured: dict[str, float]) -> None:
        self._sums = {}
        adversaries = unwrap(runner.model).adversaries()
        for name, monitor in self.monitors.items():
            now = {key: measured[key] for key in _FEATURES}
            if f'{name}_accuracy' in measured:
                now['accuracy'] = measured[f'{name}_accuracy'] / self.interval
            if f'{name}_gradient_ratio' in measured:
                now['gradient_ratio'] = measured[f'{name}_gradient_ratio']
            adversary = adversaries[name]
            full = adversary.reversal_weight or 1.0
            begun, over = monitor.judge(
                now,
                dict(
                    chance=adversary.chance,
                    strength=float(adversary.current_reversal_weight()) / full,
                    classes=adversary.num_classes,
                    images=runner.train_dataloader.batch_size,
                ),
            )
            for ill, sentence in begun.items():
                _say(f'{name} ({ill}), iteration {runner.iter + 1}: {sentence}.', logging.WARNING)
            for ill in over:
                _say(f'{name}, iteration {runner.iter + 1}: no longer {ill}.', logging.INFO)
            adversary.set_backoff(monitor.factor)
            if monitor.backoff is not None:
                runner.message_hub.update_scalar(f'train/{name}_backoff', monitor.factor)


def _mean_over_ranks(values: dict[str, Any]) -> dict[str, float]:
    """Means over all processes, so that all come to one verdict; one wait for the device."""
    device = next((v.device for v in values.values() if isinstance(v, torch.Tensor)), 'cpu')
    numbers = torch.stack([torch.as_tensor(v, device=device).float() for v in values.values()])
    if get_world_size() > 1:
        all_reduce(numbers, op='mean')
    return dict(zip(values, numbers.tolist()))


def _say(message: str, level: int) -> None:
    print_log(f'AdversaryMonitor: {message}', logger='current', level=level)
