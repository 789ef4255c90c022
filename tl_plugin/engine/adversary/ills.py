"""What ails an adversarial training, by name."""

from __future__ import annotations

from dataclasses import dataclass

#: Ills against which a smaller gradient-reversal weight helps.
BACKS_OFF = ('drowned', 'collapsed')


@dataclass(frozen=True)
class Limits:
    """What counts as healthy.

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


def name_ills(
    now: dict[str, float], first: dict[str, float], adversary: dict[str, float], limits: Limits
) -> dict[str, str]:
    """Name what is wrong with one adversary and the features, and what helps.

    Args:
        now: Means of the last measurements: ``feature_norm``, ``feature_rank``,
            ``feature_spread`` and, where they are known, ``accuracy`` and ``gradient_ratio``.
        first: The features' values at the first measurement.
        adversary: ``chance`` and ``peak``, the accuracy of guessing and the best one yet;
            ``strength``, the share of its final reversal weight in force; ``classes`` and
            ``images``.
        limits: What is healthy.

    Returns:
        Name of the ill -> a sentence about it.
    """
    return {**_of_adversary(now, adversary, limits), **_of_features(now, first, adversary, limits)}


def _of_adversary(
    now: dict[str, float], adversary: dict[str, float], limits: Limits
) -> dict[str, str]:
    ills = {}
    accuracy, chance = now.get('accuracy'), adversary['chance']
    if accuracy is not None and adversary['peak'] < chance + limits.dead_margin:
        ills['dead'] = (
            f'the discriminator is dead: its accuracy was never better than {adversary["peak"]:.2f}'
            f', and guessing gives {chance:.2f}. Raise its learning rate (paramwise_cfg), give it '
            'more hidden_channels or norm=None; or the two domains do not differ'
        )
    if accuracy is not None and accuracy > limits.winning_accuracy and adversary['strength'] >= 0.5:
        ills['winning'] = (
            f'the discriminator is not fooled: it tells the domains apart in {accuracy:.0%} of '
            'cases, so that the features are not aligned. Raise loss_weight or reversal_weight, or '
            'give it label_smoothing, spectral_norm or a gradient_penalty'
        )
    ratio = now.get('gradient_ratio')
    if ratio is not None and ratio > limits.max_ratio:
        ills['drowned'] = (
            f'the adversary drowns the task: its gradient at the features is {ratio:.3g} times '
            'that of the classification loss. Lower reversal_weight or loss_weight, or let the '
            'monitor back off (backoff=0.5)'
        )
    return ills


def _of_features(
    now: dict[str, float], first: dict[str, float], adversary: dict[str, float], limits: Limits
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
