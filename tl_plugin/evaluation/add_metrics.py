"""Adds to what an evaluation found."""

from __future__ import annotations

from mmengine.runner import Runner


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
