from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmpretrain.registry import METRICS
from torch import Tensor

from tl_plugin.functional.validators import (
    batch_nuclear_norm,
    information_maximization,
    mean_entropy,
    soft_neighborhood_density,
)

SCORES = {
    'information_maximization': information_maximization,
    'soft_neighborhood_density': soft_neighborhood_density,
    'batch_nuclear_norm': batch_nuclear_norm,
    'entropy': mean_entropy,
}
#: Images that a score needs, where one isn't enough.
LEAST_IMAGES = {'soft_neighborhood_density': 2}


@METRICS.register_module()
class TargetValidator(BaseMetric):
    """Scores that need no label, to choose a checkpoint or to stop on an unlabelled target.

    Works with ``CheckpointHook(save_best='target/label_free/information_maximization',
    rule='greater')`` and ``EarlyStoppingHook``. Higher is better for all but ``entropy``. No single
    score is safe everywhere (Musgrave et al., arXiv 2208.07360).

    Args:
        scores: Any of 'information_maximization', 'soft_neighborhood_density',
            'batch_nuclear_norm', 'entropy', see :mod:`tl_plugin.functional.validators`. Defaults to
            all of them.
        collect_device: As in mmengine. Defaults to 'cpu'.
        prefix: Of the names in the log. Defaults to 'label_free'.

    Raises:
        ValueError: If there is no such score.
    """

    default_prefix = 'label_free'

    def __init__(
        self,
        scores: Sequence[str] = tuple(SCORES),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        unknown = [name for name in scores if name not in SCORES]
        if unknown or not scores or isinstance(scores, str):
            raise ValueError(f'TargetValidator has the scores {", ".join(SCORES)}, got {scores!r}')
        self.scores = tuple(scores)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the probabilities of a batch."""
        for sample in data_samples:
            self.results.append(sample['pred_score'].detach().float().cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Compute the scores of all images."""
        probabilities = torch.stack(results) if results else torch.empty(0, 1)
        found = validator_scores(probabilities, self.scores)
        missing = [name for name in self.scores if name not in found]
        if missing:
            print_log(
                f'TargetValidator: {len(results)} images are too few for {", ".join(missing)}.',
                logger='current',
                level=logging.WARNING,
            )
        return found


def validator_scores(
    probabilities: Tensor, scores: Sequence[str] = tuple(SCORES)
) -> dict[str, float]:
    """Compute the scores that so many images allow.

    Args:
        probabilities: (N, K), rows add up to 1.
        scores: Names of :data:`SCORES`. Defaults to all.

    Returns:
        Score by name: none of no image, all but the neighborhood's density of one.
    """
    count = len(probabilities)
    return {
        name: SCORES[name](probabilities).item()
        for name in scores
        if count >= LEAST_IMAGES.get(name, 1)
    }
