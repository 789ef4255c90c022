"""Which class the model predicts for each image of a loader, in the order of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

SOURCE = 'source'


def domain_loader(runner: Runner, domain: str = SOURCE) -> DataLoader:
    """The validation loader of a domain.

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
    """The predicted class of each image of a batch.

    Args:
        outputs: Data samples, as a classifier's ``predict`` gives them.

    Raises:
        ValueError: If an image has no single predicted class.
    """
    found = []
    for sample in outputs:
        label = sample.get('pred_label')
        if label is None or label.numel() != 1:
            raise ValueError(
                'a prediction is compared by its class, and this model gives '
                f'{"none" if label is None else f"{label.numel()} of them"} an image: retention '
                'and similarity are for classifiers with one class an image'
            )
        found.append(int(label))
    return found


def gather_labels(labels: Sequence[int], count: int) -> Tensor:
    """Joins what the processes predicted, in the order of the images.

    Args:
        labels: Of this process's share, as mmengine's samplers deal it out.
        count: How many images there are; processes get a few twice to have equal shares.

    Returns:
        (count,), on every process.
    """
    parts = all_gather_object(list(labels))
    dealt = [label for row in zip(*parts) for label in row]
    return torch.tensor(dealt[:count], dtype=torch.long)
