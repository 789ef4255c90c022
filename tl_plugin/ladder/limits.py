"""Limits that end a climb before its last rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .jobs import Job
from .recommend import BASELINE, SOURCE_ACCURACY, TARGET_ACCURACY, within_budget
from .results import summaries
from .target_labels import TargetLabels


@dataclass(frozen=True)
class Limits:
    """Limits of a climb, checked on validation images alone.

    Args:
        until: Target accuracy in percent at which the climb ends. Defaults to None, no such limit.
        budget_source: Points of source accuracy that a rung may lose; one that loses more can't be
            recommended. Defaults to None, no limit.
        budget_time: Seconds of waiting after which no new rung starts, including those for runs
            that were finished before; runs side by side count once. Defaults to None, no limit.
        early_stop: End the climb when a rung is as good on the target as ``source_only`` on the
            source, so that more expensive rungs have no gap to close. Defaults to False.

    Raises:
        ValueError: If a limit is out of its range.
    """

    until: float | None = None
    budget_source: float | None = None
    budget_time: float | None = None
    early_stop: bool = False

    def __post_init__(self) -> None:
        if self.until is not None and not 0 < self.until <= 100:
            raise ValueError(f'until is a target accuracy in percent, got {self.until}')
        for name in ('budget_source', 'budget_time'):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f'{name} must be at least 0, got {value}')

    @property
    def acts(self) -> bool:
        """Whether one of them may end a climb."""
        return self.until is not None or self.budget_time is not None or self.early_stop

    def check_reachable(self, labels: TargetLabels) -> None:
        """Check before training that a limit on target accuracy can act.

        Args:
            labels: Which target images have labels.

        Raises:
            ValueError: If the target accuracy won't be known on validation images.
        """
        wanted = [f'--until {self.until:g}'] if self.until is not None else []
        wanted += ['--early-stop'] if self.early_stop else []
        why = labels.why_no_accuracy()
        if wanted and why:
            raise ValueError(
                f'{" and ".join(wanted)} would never end the climb: it needs the accuracy on '
                f'target validation images, which will not be known, since {why}. Remove it '
                '(--budget-time SECONDS limits a climb without labels), or give val_cfg a domain '
                'target with labels on some of its images'
            )

    def check_source_free(self) -> None:
        """Check that no limit compares with the source, where there are no source images.

        Raises:
            ValueError: If one does.
        """
        given = dict(budget_source=self.budget_source is not None, early_stop=self.early_stop)
        wanted = [f'--{name.replace("_", "-")}' for name, is_given in given.items() if is_given]
        if wanted:
            raise ValueError(
                f'{" and ".join(wanted)} needs the accuracy on source images, and here are none: '
                'remove it, or climb with --source'
            )

    def used_up(self, spent: float) -> str | None:
        """Return why no further rung starts; None if there is time.

        Args:
            spent: Seconds that the climb has taken.
        """
        if self.budget_time is not None and spent >= self.budget_time:
            return f'{spent:.0f} s have used up the {self.budget_time:.0f} s allowed'
        return None

    def enough(self, jobs: Sequence[Job]) -> str | None:
        """Return why what the rungs so far reach is enough; None if it isn't.

        Args:
            jobs: Their runs, finished and unfinished.
        """
        if self.until is None and not self.early_stop:
            return None
        rungs = summaries(jobs)
        inside = within_budget(rungs, self.budget_source)
        kept = [rung for rung in inside if rung.validated(TARGET_ACCURACY) is not None]
        if not kept:
            return None
        best = max(kept, key=lambda rung: rung.validated(TARGET_ACCURACY))
        reached = best.validated(TARGET_ACCURACY)
        if self.until is not None and reached >= self.until:
            return f'{best.name} reaches the {self.until:g}% asked for on validation images'
        baseline = next((rung for rung in rungs if rung.name == BASELINE), None)
        ceiling = baseline.validated(SOURCE_ACCURACY) if baseline else None
        if self.early_stop and ceiling and reached >= ceiling:
            return (
                f'{best.name} is as good on the target ({reached:.1f}%) as {BASELINE} on the '
                f'source ({ceiling:.1f}%): no gap is left'
            )
        return None
