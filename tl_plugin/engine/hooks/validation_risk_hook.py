"""An estimate of the target's error, to choose a checkpoint by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from tl_plugin.evaluation.metrics import add_metrics
from tl_plugin.evaluation.predictions import DomainPredictions
from tl_plugin.functional import control_variate_risk, density_ratio
from tl_plugin.stack.model_wrappers import unwrap
from tl_plugin.stack.options import checked
from tl_plugin.stack.protocol import require_adaptation_model


@HOOKS.register_module()
class ValidationRiskHook(Hook):
    """Deep embedded validation: the error on source images, weighed by how target-like they are.

    You et al., "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", ICML
    2019 (DEV). The weights are density ratios of the features, by a regression that tells the
    domains apart, fitted on other images than it weighs; a control variate takes out their noise.
    See :mod:`tl_plugin.functional.validation_risk`. No target label is looked at.

    Adds ``<target>/label_free/dev_risk`` to the metrics of a validation of several domains, an
    error in percent, lower is better: ``CheckpointHook(save_best='target/label_free/dev_risk',
    rule='less')``.

    Args:
        source: Name of the labelled domain of the validation. Defaults to 'source'.
        target: Name of the other. Defaults to 'target'.
        decay: Of the regression's weights. Defaults to 1.

    Raises:
        ValueError: If the validation lacks a domain, the source has no labels, or the model can't
            keep its features.
    """

    priority = 'NORMAL'

    @checked
    def __init__(self, source: str = 'source', target: str = 'target', decay: float = 1.0) -> None:
        if decay <= 0:
            raise ValueError(f'ValidationRiskHook: decay must be > 0, got {decay}')
        self.source, self.target, self.decay = source, target, decay
        self._seen = DomainPredictions(
            'ValidationRiskHook', (source, target), ('pred_score', 'gt_label', 'features')
        )

    def adds_metrics(self, names: Sequence[str]) -> list[str]:
        """Return the names that it adds to the metrics of a validation."""
        return [f'{self.target}/label_free/dev_risk']

    def before_train(self, runner: Runner) -> None:
        """Find both domains, and labels of the source."""
        self._seen.check(runner.val_loop)

    def before_val_epoch(self, runner: Runner) -> None:
        """Has the model keep its features."""
        require_adaptation_model(runner.model, 'ValidationRiskHook').keep_features(True)
        self._seen.clear()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep predictions and features."""
        self._seen.add(runner.val_loop.domain, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Estimates the risk."""
        unwrap(runner.model).keep_features(False)
        source = self._seen.of(self.source, runner.val_loop)
        target = self._seen.of(self.target, runner.val_loop)
        self._seen.clear()
        weights = density_ratio(source['features'], target['features'], self.decay)
        wrong = source['pred_score'].argmax(dim=1) != source['gt_label'][:, 0].long()
        risk = 100 * control_variate_risk(weights, wrong.float()).item()
        add_metrics(runner, metrics, {f'{self.target}/label_free/dev_risk': risk}, 'val')
