"""From single measurements to verdicts, with a state that a checkpoint can hold."""

from __future__ import annotations

from typing import Any

from .ills import BACKS_OFF, Limits, name_ills


class AdversaryMonitor:
    """Judges one adversary by its measurements and says how far to back off.

    An ill is an ill once it was there at ``patience`` measurements in a row.

    Args:
        limits: What is healthy.
        patience: Measurements in a row.
        backoff: Factor on the reversal_weight each time the adversary has to back off; None never.
        min_factor: The least product of these factors.
    """

    def __init__(
        self, limits: Limits, patience: int, backoff: float | None, min_factor: float
    ) -> None:
        self.limits = limits
        self.patience = patience
        self.backoff = backoff
        self.min_factor = min_factor
        #: All that changes, numbers by name, so that it goes into a checkpoint as it is.
        self.state: dict[str, Any] = dict(factor=1.0, peak=0.0, healthy=0, first={}, counts={})

    @property
    def factor(self) -> float:
        """What the gradient-reversal weight is to be multiplied by."""
        return self.state['factor']

    def judge(self, now: dict[str, float], adversary: dict[str, float]) -> tuple[dict, dict]:
        """Add a measurement.

        Args:
            now: See :func:`name_ills`.
            adversary: The same, without ``peak``.

        Returns:
            The ills that begin now, name -> sentence, and those that are over, name -> None.
        """
        state = self.state
        state['first'] = state['first'] or {k: v for k, v in now.items() if k.startswith('feature')}
        state['peak'] = max(state['peak'], now.get('accuracy', 0.0))
        ills = name_ills(now, state['first'], {**adversary, 'peak': state['peak']}, self.limits)
        counts = state['counts']
        over = {
            name: None
            for name, count in counts.items()
            if name not in ills and count >= self.patience
        }
        state['counts'] = {name: counts.get(name, 0) + 1 for name in ills}
        begun = {name: ills[name] for name, n in state['counts'].items() if n == self.patience}
        self._adapt_factor(ills)
        return begun, over

    def _adapt_factor(self, ills: dict[str, str]) -> None:
        if self.backoff is None:
            return
        state = self.state
        state['healthy'] = 0 if any(name in BACKS_OFF for name in ills) else state['healthy'] + 1
        # Each further step down or up waits until the last one has shown its effect.
        sick = max((state['counts'].get(name, 0) for name in BACKS_OFF), default=0)
        if sick and sick % self.patience == 0:
            state['factor'] = max(state['factor'] * self.backoff, self.min_factor)
        elif state['healthy'] and state['healthy'] % self.patience == 0:
            state['factor'] = min(state['factor'] / self.backoff, 1.0)
