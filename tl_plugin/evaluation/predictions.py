"""Predictions of a validation, gathered from all processes in the order of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import image_infos
from tl_plugin.stack.protocol import SOURCE


def domain_loader(runner: Runner, domain: str = SOURCE) -> DataLoader:
    """Return the validation loader of a domain.

    Args:
        runner: A runner whose validation loop is built.
        domain: A domain of a ``DomainValLoop``. Of any other loop, ``val_dataloader`` is the domain
            'source', as it is in a ``DomainValLoop``.

    Raises:
        ValueError: If there is no such domain.
    """
    loop = runner.val_loop
    domains = getattr(loop, 'domains', None)
    if domains is None and domain == SOURCE and loop is not None:
        return loop.dataloader
    if not domains or domain not in domains:
        raise ValueError(
            f"this needs validation images of the domain '{domain}', and this config has "
            f'{", ".join(domains or ()) or ("one without a name" if loop else "no validation")}: '
            "val_dataloader is the source, set val_cfg = dict(type='DomainValLoop', "
            'dataloaders=dict(target=dict(dataset=...)))'
        )
    return domains[domain][0]


def predicted_labels(outputs: Sequence[Any]) -> list[int]:
    """Return the class with the highest score of each image of a batch.

    Args:
        outputs: Data samples with ``pred_score``, as a classifier's ``predict`` gives them.

    Raises:
        ValueError: If an image has no scores.
    """
    scores = [sample.get('pred_score') for sample in outputs]
    if any(score is None for score in scores):
        raise ValueError(
            'predictions are compared by their class, and this model gives no pred_score: '
            'retention and similarity are for classifiers'
        )
    return [int(score.argmax()) for score in scores]


def gather_labels(labels: Sequence[int], count: int) -> Tensor:
    """Join what the processes predicted, in the order of the images.

    Args:
        labels: Of this process's share, as mmengine's samplers deal it out.
        count: How many images there are; processes get a few twice to have equal shares.

    Returns:
        (count,), on every process.
    """
    parts = all_gather_object(list(labels))
    dealt = [label for row in zip(*parts) for label in row]
    return torch.tensor(dealt[:count], dtype=torch.long)


class DomainPredictions:
    """Predictions of one validation by domain, of all processes together.

    Args:
        hook: Whose they are, for messages.
        domains: Which domains are kept.
        fields: Fields of the data samples that are kept: 'pred_score', 'gt_label', 'features'.
            Labels are kept of the first domain alone, the source; its images without a label are
            left out.
    """

    def __init__(self, hook: str, domains: Sequence[str], fields: Sequence[str]) -> None:
        self.hook = hook
        self.domains = tuple(domains)
        self.fields = tuple(fields)
        self._kept: dict[str, dict[str, list[Tensor]]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._kept = {name: {field: [] for field in self.fields} for name in self.domains}

    def check(self, loop: Any) -> None:
        """Refuse a validation that lacks one of the domains, or labels of the source.

        Args:
            loop: The val loop.

        Raises:
            ValueError: If it is so.
        """
        known = getattr(loop, 'domains', {})
        missing = [name for name in self.domains if name not in known]
        if missing:
            raise ValueError(
                f'{self.hook} needs a validation of the domains {", ".join(self.domains)}, and '
                f'{", ".join(missing)} is missing: set val_cfg = dict(type="DomainValLoop", '
                'dataloaders=dict(target=dict(dataset=...)))'
            )
        source, dataset = self.domains[0], known[self.domains[0]][0].dataset
        if 'gt_label' in self.fields and not _has_labels(dataset):
            raise ValueError(
                f'{self.hook} compares predictions with labels of the domain {source}, and no '
                f'image of {describe_data(dataset)} has one: give it class folders or an '
                'annotation file with labels (with_label=True)'
            )

    def add(self, domain: str, samples: Sequence[Any]) -> None:
        """Keep a batch of predicted data samples."""
        if domain not in self._kept:
            return
        for field, rows in self._kept[domain].items():
            if field == 'gt_label':
                if domain == self.domains[0]:  # nobody can look at those of other domains
                    rows.extend(_label(sample) for sample in samples)
            else:
                rows.extend(sample.get(field).detach().float().cpu() for sample in samples)

    def of(self, domain: str, loop: Any) -> dict[str, Tensor]:
        """Return what was kept of a domain, each image once, (N, ...) by field.

        Raises:
            ValueError: If labels are kept of the domain, and no image has one.
        """
        size = len(loop.domains[domain][0].dataset)
        ranks = all_gather_object(
            {field: torch.stack(rows) for field, rows in self._kept[domain].items() if rows}
        )
        found = {field: _each_once([rank[field] for rank in ranks], size) for field in ranks[0]}
        if 'gt_label' not in found:
            return found
        labelled = found['gt_label'][:, 0] >= 0
        if not labelled.any():
            raise ValueError(f'{self.hook}: no image of the domain {domain} has a label')
        return {field: rows[labelled] for field, rows in found.items()}


def _label(sample: Any) -> Tensor:
    """Return the label of an image, (1,); -1 where it has none."""
    label = sample.get('gt_label')
    return torch.tensor([-1.0]) if label is None else label.detach().float().cpu()


def _has_labels(dataset: Any) -> bool:
    """Whether some image of a data set has a label; taken for granted where it doesn't say."""
    try:
        labels = (info.get('gt_label') for info in image_infos(dataset))
        return any(label is not None and np.all(np.asarray(label) >= 0) for label in labels)
    except TypeError:
        return True


def _each_once(ranks: list[Tensor], size: int) -> Tensor:
    """Images go round the processes, and the last ones are filled up with the first."""
    if len({len(rows) for rows in ranks}) > 1:
        return torch.cat(ranks)[:size]
    return torch.stack(ranks, dim=1).flatten(0, 1)[:size]
