"""Which class the model predicts for each image of a loader, in the order of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

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
