"""Failure modes of adversarial training, by name, and how far to back off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Failure modes against which a smaller gradient-reversal weight helps.
BACKS_OFF = ('drowned', 'collapsed')


@dataclass(frozen=True)
class HealthLimits:
    """Limits of healthy adversarial training.

    Attributes:
        dead_margin: A discriminator that was never better than chance by this much is dead.
        winning_accuracy: One that stays above it isn't fooled by the features.
        max_ratio: Largest healthy ratio of the adversarial to the task gradient at the features.
        min_spread: Features closer together than this, relative to their norm, are one point.
        min_rank_share: Features of less than this share of their first effective rank have
            collapsed, if there are fewer directions than half the classes need, too.
        min_norm_share: The same for their norm.
    """

    dead_margin: float = 0.05
    winning_accuracy: float = 0.95
    max_ratio: float = 10.0
    min_spread: float = 0.02
    min_rank_share: float = 0.25
    min_norm_share: float = 0.01


def failure_modes(
    now: dict[str, float],
    first: dict[str, float],
    adversary: dict[str, float],
    limits: HealthLimits,
) -> dict[str, str]:
    """Name the failure modes of one adversary and the features, and how to fix them.

    Args:
        now: Means of the last measurements: ``feature_norm``, ``feature_rank``,
            ``feature_spread`` and, where they are known, ``accuracy`` and ``gradient_ratio``.
        first: The features' values at the first measurement.
        adversary: ``chance`` and ``peak``, the accuracy of guessing and the best one yet;
            ``strength``, the share of its final reversal weight in force; ``classes`` and
            ``images``.
        limits: What is healthy.

    Returns:
        Name of the failure mode -> a sentence about it and how to fix it.
    """
    return {**_of_adversary(now, adversary, limits), **_of_features(now, first, adversary, limits)}


def _of_adversary(
    now: dict[str, float], adversary: dict[str, float], limits: HealthLimits
) -> dict[str, str]:
    failures = {}
    accuracy, chance = now.get('accuracy'), adversary['chance']
    if accuracy is not None and adversary['peak'] < chance + limits.dead_margin:
        failures['dead'] = (
            f'the discriminator is dead: its accuracy was never better than {adversary["peak"]:.2f}'
            f', and guessing gives {chance:.2f}. Raise its learning rate (paramwise_cfg), give it '
            'more hidden_channels or norm=None; or the two domains do not differ'
        )
    if accuracy is not None and accuracy > limits.winning_accuracy and adversary['strength'] >= 0.5:
        failures['winning'] = (
            f'the discriminator is not fooled: it distinguishes the domains in {accuracy:.0%} of '
            'cases, so that the features are not aligned. Raise loss_weight or reversal_weight, or '
            'give it label_smoothing, spectral_norm or a gradient_penalty'
        )
    ratio = now.get('gradient_ratio')
    if ratio is not None and ratio > limits.max_ratio:
        failures['drowned'] = (
            f'the adversary drowns the task: its gradient at the features is {ratio:.3g} times '
            'that of the classification loss. Lower reversal_weight or loss_weight, or let the '
            'monitor back off (backoff=0.5)'
        )
    return failures


def _of_features(
    now: dict[str, float],
    first: dict[str, float],
    adversary: dict[str, float],
    limits: HealthLimits,
) -> dict[str, str]:
    directions = 0.5 * (min(adversary['classes'], adversary['images']) - 1)
    low_rank = min(directions, limits.min_rank_share * first['feature_rank'])
    what = None
    if now['feature_spread'] < limits.min_spread:
        what = f'all images have nearly one vector (spread {now["feature_spread"]:.2g} of the norm)'
    elif now['feature_rank'] < low_rank:
        what = f'effective rank {now["feature_rank"]:.1f}, at first {first["feature_rank"]:.1f}'
    elif now['feature_norm'] < limits.min_norm_share * first['feature_norm']:
        what = f'norm {now["feature_norm"]:.2g}, at first {first["feature_norm"]:.2g}'
    if what is None:
        return {}
    return {
        'collapsed': (
            f'the features have collapsed: {what}. Lower reversal_weight, let the monitor back off '
            '(backoff=0.5), or lower the learning rate'
        )
    }


class AdversaryMonitor:
    """Judge one adversary by its measurements, and decide how far to back off.

    A failure mode is reported once it was present in ``patience`` measurements in a row.

    Args:
        limits: What is healthy.
        patience: Measurements in a row.
        backoff: Factor on the reversal_weight each time the adversary has to back off; None never.
        min_factor: The least product of these factors.
    """

    def __init__(
        self, limits: HealthLimits, patience: int, backoff: float | None, min_factor: float
    ) -> None:
        self.limits = limits
        self.patience = patience
        self.backoff = backoff
        self.min_factor = min_factor
        #: All that changes, numbers by name, so that it goes into a checkpoint as it is.
        self.state: dict[str, Any] = dict(factor=1.0, peak=0.0, healthy=0, first={}, counts={})

    @property
    def factor(self) -> float:
        """Factor on the gradient-reversal weight."""
        return self.state['factor']

    def judge(self, now: dict[str, float], adversary: dict[str, float]) -> tuple[dict, dict]:
        """Add a measurement.

        Args:
            now: See :func:`failure_modes`.
            adversary: The same, without ``peak``.

        Returns:
            The failure modes that begin now, name -> sentence, and those that ended, name -> None.
        """
        state = self.state
        state['first'] = state['first'] or {k: v for k, v in now.items() if k.startswith('feature')}
        state['peak'] = max(state['peak'], now.get('accuracy', 0.0))
        failures = failure_modes(
            now, state['first'], {**adversary, 'peak': state['peak']}, self.limits
        )
        counts = state['counts']
        over = {
            name: None
            for name, count in counts.items()
            if name not in failures and count >= self.patience
        }
        state['counts'] = {name: counts.get(name, 0) + 1 for name in failures}
        begun = {name: failures[name] for name, n in state['counts'].items() if n == self.patience}
        self._adapt_factor(failures)
        return begun, over

    def _adapt_factor(self, failures: dict[str, str]) -> None:
        if self.backoff is None:
            return
        state = self.state
        state['healthy'] = (
            0 if any(name in BACKS_OFF for name in failures) else state['healthy'] + 1
        )
        # Each further step down or up waits until the last one has shown its effect.
        failing = max((state['counts'].get(name, 0) for name in BACKS_OFF), default=0)
        if failing and failing % self.patience == 0:
            state['factor'] = max(state['factor'] * self.backoff, self.min_factor)
        elif state['healthy'] and state['healthy'] % self.patience == 0:
            state['factor'] = min(state['factor'] / self.backoff, 1.0)
