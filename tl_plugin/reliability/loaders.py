"""Finds the replayable loaders behind a train loop."""

from __future__ import annotations

from typing import Any

from .replayable_loader import ReplayableLoader


def train_loaders(loop: Any) -> list[ReplayableLoader]:
    """The replayable loaders of a loop: one, or those that a pair is made of, source first.

    Args:
        loop: A train loop.
    """
    return _inside(getattr(loop, 'dataloader', None))


def _inside(loader: Any) -> list[ReplayableLoader]:
    if isinstance(loader, ReplayableLoader):
        return [loader]
    parts = (getattr(loader, name, None) for name in ('source', 'target', 'loader'))
    return [found for part in parts if part is not None for found in _inside(part)]
