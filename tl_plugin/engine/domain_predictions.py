"""Keeps what a validation of several domains predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor


class DomainPredictions:
    """Predictions of one validation by domain, of all processes together.

    Args:
        hook: Whose they are, for messages.
        domains: Which domains are kept.
        fields: Fields of the data samples that are kept: 'pred_score', 'gt_label', 'features'.
            Labels are kept of the first domain alone, the source.
    """

    def __init__(self, hook: str, domains: Sequence[str], fields: Sequence[str]) -> None:
        self.hook = hook
        self.domains = tuple(domains)
        self.fields = tuple(fields)
        self._kept: dict[str, dict[str, list[Tensor]]] = {}
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self._kept = {name: {field: [] for field in self.fields} for name in self.domains}

    def check(self, loop: Any) -> None:
        """Refuses a validation in which one of the domains isn't.

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

    def add(self, domain: str, samples: Sequence[Any]) -> None:
        """Keeps a batch of predicted data samples."""
        if domain not in self._kept:
            return
        for field, rows in self._kept[domain].items():
            if field == 'gt_label' and domain != self.domains[0]:
                continue  # nobody shall be able to look at them
            rows.extend(sample.get(field).detach().float().cpu() for sample in samples)

    def of(self, domain: str, loop: Any) -> dict[str, Tensor]:
        """What was kept of a domain, each image once, (N, ...) by field."""
        size = len(loop.domains[domain][0].dataset)
        ranks = all_gather_object(
            {field: torch.stack(rows) for field, rows in self._kept[domain].items() if rows}
        )
        return {field: _each_once([rank[field] for rank in ranks], size) for field in ranks[0]}


def _each_once(ranks: list[Tensor], size: int) -> Tensor:
    """Images go round the processes, and the last ones are filled up with the first."""
    if len({len(rows) for rows in ranks}) > 1:
        return torch.cat(ranks)[:size]
    return torch.stack(ranks, dim=1).flatten(0, 1)[:size]
