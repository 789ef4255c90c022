"""Metrics over labelled images alone, and values that hooks add to an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from mmpretrain.registry import METRICS


@METRICS.register_module()
class LabelledOnly(BaseMetric):
    """Any metric of single images, over those that have a label.

    For a data set of which some images have one: by itself a metric fails on the others, or counts
    each of them as a mistake. Its values keep the metric's own names.

    Args:
        metric: Config of a metric that keeps one result an image, such as mmpretrain's
            ``Accuracy``.
        collect_device: As in mmengine. Defaults to 'cpu'.

    Example:
        ``val_evaluator = dict(type='LabelledOnly', metric=dict(type='Accuracy'))``
    """

    def __init__(self, metric: dict | BaseMetric, collect_device: str = 'cpu') -> None:
        self.metric = METRICS.build(metric) if isinstance(metric, dict) else metric
        super().__init__(collect_device=collect_device, prefix=self.metric.prefix)

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Hand the data set's meta information on."""
        self._dataset_meta = self.metric.dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the metric's results of each image; of one without a label none."""
        for sample in data_samples:
            self.metric.results.clear()
            label = sample.get('gt_label')
            if label is not None and label.numel() and bool((label >= 0).all()):
                self.metric.process(data_batch, [sample])
            self.results.append(list(self.metric.results))
        self.metric.results.clear()

    def compute_metrics(self, results: list[list]) -> dict[str, float]:
        """Compute the metric; nothing where no image has a label."""
        known = [found for image in results for found in image]
        return self.metric.compute_metrics(known) if known else {}


def add_metrics(
    runner: Runner, metrics: dict[str, float] | None, found: dict[str, float], mode: str
) -> None:
    """Log values beside an evaluation's metrics, where ``save_best`` and others find them.

    For a hook's ``after_val_epoch`` or ``after_test_epoch`` whose priority is above the logger's.

    Args:
        runner: The runner.
        metrics: What the evaluation found; extended in place.
        found: What to add, by name.
        mode: 'val' or 'test'.
    """
    for name, value in found.items():
        runner.message_hub.update_scalar(f'{mode}/{name}', value)
    if metrics is not None:
        metrics.update(found)
