"""Watches what the model keeps of its source ability, and stops where that costs too much."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Sequence

from mmengine.dist import barrier
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner
from mmpretrain.registry import HOOKS

from tl_plugin.evaluation.metrics import add_metrics
from tl_plugin.evaluation.predictions import SOURCE, domain_loader, gather_labels, predicted_labels
from tl_plugin.evaluation.retention import Baseline, Retention, retention
from tl_plugin.reliability.checkpoints import resumes, save_hook_state, saved_hook_state
from tl_plugin.reliability.ranks import on_all_ranks
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked

from ..loops.domain_eval_loop import evaluate
from ..monitors import Monitor

ACTIONS = ('log', 'stop', 'roll_back')
#: The last model inside the budget, in the work folder.
CHECKPOINT = 'inside_budget.pth'
_KEY = 'retention'


@HOOKS.register_module()
class RetentionHook(Hook):
    """Measures what the model keeps of the source model's ability, against a budget.

    Before training the source model is measured on the source validation images; each validation
    then logs ``retention/forgetting``, the points of source accuracy lost since, and
    ``retention/agreement``, the percentage of source images of which it predicts what the source
    model did. Where more than the budget stays lost, training ends, and ``inside_budget.pth`` in
    the work folder is the last model that cost no more.

    The source is the domain ``source`` of a ``DomainValLoop``, of any other loop its
    ``val_dataloader``. The baseline is in the checkpoint, so that a resumed run measures against
    the same. Costs one evaluation of the source before training.

    Args:
        budget: Points of the metric that may be lost. Defaults to 1.
        metric: Of the source, without its domain. Higher is better. Defaults to 'accuracy/top1'.
        action: What to do beyond the budget: 'log' warns; 'stop' ends training and leaves the model
            as it is; 'roll_back' ends training and gives the model the weights of
            ``inside_budget.pth`` back, as it does where training comes to its end beyond the
            budget. Defaults to 'roll_back'.
        patience: So many validations in a row may be beyond the budget before training ends: what
            high learning rates take at first often comes back. Defaults to 2.

    Raises:
        ValueError: If an argument is out of its range, the run validates no source images, or the
            checkpoint to resume from has no baseline.
    """

    # Before the logger, which writes what is measured here.
    priority = 'NORMAL'

    @checked
    def __init__(
        self,
        budget: float = 1.0,
        metric: str = 'accuracy/top1',
        action: str = 'roll_back',
        patience: int = 2,
    ) -> None:
        if budget < 0:
            raise ValueError(f'RetentionHook: budget must be at least 0 points, got {budget}')
        if action not in ACTIONS:
            raise ValueError(
                f'RetentionHook: action must be one of {", ".join(ACTIONS)}, got {action!r}'
            )
        if patience < 0:
            raise ValueError(f'RetentionHook: patience must be at least 0, got {patience}')
        self.budget = budget
        self.metric = metric
        self.action = action
        self.patience = patience
        self.overdrawn = 0
        self.baseline: Baseline | None = None
        self._labels: list[int] = []
        self._kept: Retention | None = None

    def before_train(self, runner: Runner) -> None:
        """Measure the source model, or take over what was measured when the run began."""
        loader = domain_loader(runner)
        if not runner.iter:
            self._labels, self.overdrawn = [], 0
            found = evaluate(runner, runner.val_loop, [SOURCE], self._keep)
            self.baseline = Baseline(self._metric(found), self._predictions(loader))
            print_log(
                f'Retention: the source model has {self._name(runner)} '
                f'{self.baseline.metric:.2f} on {len(loader.dataset)} source images; '
                f'{self.budget:g} points may be lost.',
                logger='current',
            )
            self._save(runner)
        elif self.baseline is None:
            raise ValueError(
                'This checkpoint has no measurement of its source model, because its run had no '
                'RetentionHook: go on without it, or start a new run with load_from.'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to collect predictions."""
        self._labels = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Keep the predictions of the source images."""
        if runner.val_loop.dataloader is domain_loader(runner):
            self._keep(SOURCE, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Measure and log."""
        if self.baseline is None or metrics is None:
            return  # a validation outside of training
        predictions = self._predictions(domain_loader(runner))
        kept = retention(self.baseline, self._metric(metrics), predictions)
        found = {f'retention/{name}': value for name, value in kept._asdict().items()}
        add_metrics(runner, metrics, found, 'val')
        self._kept = kept

    def after_val(self, runner: Runner) -> None:
        """Act, once an ``EMAHook`` has given the model its own weights back."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if kept.within(self.budget):
            self.overdrawn = 0
            self._save(runner)
            return
        self.overdrawn += 1
        print_log(
            f'Retention: {kept.forgetting:.2f} points of {self._name(runner)} are lost, '
            f'{self.budget:g} are allowed.',
            logger='current',
            level=logging.WARNING,
        )
        if self.action != 'log' and self.overdrawn > self.patience:
            runner.train_loop.stop_training = True

    def after_train(self, runner: Runner) -> None:
        """Say what is left where the run ends beyond the budget, and roll back."""
        if not self.overdrawn or self.action == 'log':
            return
        text = f'Retention: the last model inside the budget is {CHECKPOINT}'
        if self.action == 'roll_back':
            self._roll_back(runner)
            text += ', whose weights the model has again'
        print_log(f'{text}.', logger='current', level=logging.WARNING)

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """Return the names that it adds to the metrics of a validation."""
        return [f'retention/{name}' for name in Retention._fields]

    def awaited_metrics(self, runner: Runner) -> list[Monitor]:
        """Return the metrics that it reads."""
        names = (f'{SOURCE}/{self.metric}', self.metric)
        prefix = f'{SOURCE}/' if hasattr(runner.val_loop, 'domains') else ''
        option = 'custom_hooks.RetentionHook.metric'
        return [Monitor('RetentionHook', option, self.metric, names, prefix)]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the baseline into the checkpoint."""
        if self.baseline is not None:
            state = dict(self.baseline._asdict(), overdrawn=self.overdrawn)
            save_hook_state(checkpoint, _KEY, state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the baseline of a run that is resumed."""
        saved = saved_hook_state(checkpoint, _KEY)
        if saved is not None and resumes(runner):
            self.baseline = Baseline(saved['metric'], saved['predictions'].cpu())
            self.overdrawn = saved['overdrawn']

    def _keep(self, domain: str, outputs: Sequence) -> None:
        self._labels.extend(predicted_labels(outputs))

    def _predictions(self, loader):
        return gather_labels(self._labels, len(loader.dataset))

    def _metric(self, found: dict) -> float:
        for name in (f'{SOURCE}/{self.metric}', self.metric):
            if name in found:
                return float(found[name])
        raise ValueError(
            f'RetentionHook measures {self.metric} on the source, and the validation gives '
            f'{", ".join(found) or "nothing"}: set its metric, without the domain, to one of these'
        )

    def _name(self, runner: Runner) -> str:
        return f'{SOURCE}/{self.metric}' if hasattr(runner.val_loop, 'domains') else self.metric

    def _save(self, runner: Runner) -> None:
        if self.action == 'log':
            return
        from tl_plugin.reliability.files import WholeFileBackend  # noqa: F401  (registers the backend)

        on_all_ranks(
            lambda: runner.save_checkpoint(
                runner.work_dir,
                CHECKPOINT,
                save_optimizer=False,
                save_param_scheduler=False,
                backend_args={'backend': 'whole_files'},
            )
        )

    def _roll_back(self, runner: Runner) -> None:
        barrier()  # the first process has written it
        path = Path(runner.work_dir, CHECKPOINT)
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        unwrap(runner.model).load_state_dict(checkpoint['state_dict'])
