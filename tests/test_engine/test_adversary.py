import pytest

from tl_plugin.engine.adversary import AdversaryMonitor, HealthLimits, failure_modes

HEALTHY = dict(
    feature_norm=5.0, feature_rank=8.0, feature_spread=0.5, accuracy=0.7, gradient_ratio=0.5
)
ADVERSARY = dict(chance=0.5, strength=1.0, classes=10, images=24)


def _failures(adversary=None, **now):
    adversary = {**ADVERSARY, 'peak': 0.8, **(adversary or {})}
    return failure_modes({**HEALTHY, **now}, HEALTHY, adversary, HealthLimits())


@pytest.mark.parametrize(
    ('now', 'adversary', 'ill'),
    [
        (dict(accuracy=0.52), dict(peak=0.54), 'dead'),
        (dict(accuracy=0.99), {}, 'winning'),
        (dict(gradient_ratio=11.0), {}, 'drowned'),
        (dict(feature_spread=0.01), {}, 'collapsed'),
        (dict(feature_rank=1.9), {}, 'collapsed'),
        (dict(feature_norm=0.04), {}, 'collapsed'),
    ],
)
def test_each_ill_has_its_name(now, adversary, ill):
    assert list(_failures(adversary, **now)) == [ill]


@pytest.mark.parametrize(
    ('now', 'adversary'),
    [
        ({}, {}),
        (dict(accuracy=0.52), {}),  # fooled, for it knew better once: that is what DANN is for
        (dict(accuracy=0.99), dict(strength=0.2)),  # the reversal_weight still rises
        (dict(feature_rank=1.9), dict(classes=2)),  # two classes need one direction
        (dict(accuracy=0.4), dict(chance=0.25, peak=0.4)),  # of four domains
    ],
)
def test_what_is_no_ill(now, adversary):
    assert not _failures(adversary, **now)


def test_verdicts_come_once_after_patience_and_end():
    monitor = AdversaryMonitor(HealthLimits(), patience=2, backoff=None, min_factor=0.0)
    ratios = [1, 20, 20, 20, 1, 20, 1]
    judged = [
        tuple(map(list, monitor.judge({**HEALTHY, 'gradient_ratio': ratio}, ADVERSARY)))
        for ratio in ratios
    ]
    quiet = ([], [])
    assert judged == [quiet, quiet, (['drowned'], []), quiet, ([], ['drowned']), quiet, quiet]
    assert monitor.factor == 1.0


def test_it_backs_off_stepwise_down_to_the_least_and_comes_back():
    monitor = AdversaryMonitor(HealthLimits(), patience=2, backoff=0.5, min_factor=0.2)
    factors = []
    for ratio in [20] * 8 + [1] * 8:
        monitor.judge({**HEALTHY, 'gradient_ratio': ratio}, ADVERSARY)
        factors.append(monitor.factor)
    down = [1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert factors == pytest.approx(down + [0.2, 0.4, 0.4, 0.8, 0.8, 1, 1, 1])
