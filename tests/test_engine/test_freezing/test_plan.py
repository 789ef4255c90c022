"""Schedules and plans: pure functions, with every wrong use told."""

from __future__ import annotations

import pytest
from torch import nn

from tl_plugin.engine.freezing.plan import UnfreezePlan, plan_table
from tl_plugin.engine.freezing.schedules import read_schedule
from tl_plugin.engine.layers import LayerMap

MODEL = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
LAYERS = LayerMap.from_model(MODEL)
ALL_BUT_HEAD = LAYERS.select(':-1')


def plan(length, initially_frozen=ALL_BUT_HEAD, **schedule):
    schedule = read_schedule(schedule)
    return UnfreezePlan.make(schedule, schedule.phases(LAYERS, initially_frozen), length)


def steps(plan):
    return [(phase.start, phase.depths) for phase in plan.phases]


def test_there_are_six_layers():
    assert LAYERS.num_layers == 6


@pytest.mark.parametrize(
    'schedule, expected',
    [
        (dict(every=2), [(2, (4,)), (4, (3,)), (6, (2,)), (8, (1,)), (10, (0,))]),
        (dict(every=1, begin=3, layers_per_step=2), [(3, (4, 3)), (4, (2, 1)), (5, (0,))]),
        (dict(every=0.1), [(2, (4,)), (4, (3,)), (6, (2,)), (8, (1,)), (10, (0,))]),
        (dict(until=0.5), [(2, (4,)), (4, (3,)), (6, (2,)), (8, (1,)), (10, (0,))]),
        (dict(milestones=[(0.5, ':-1')]), [(10, (0, 1, 2, 3, 4))]),
        (dict(milestones=[(3, '-2:-1'), (7, [1, 2])]), [(3, (4,)), (7, (1, 2))]),
    ],
    ids=str,
)
def test_phases_of_a_run_of_twenty(schedule, expected):
    made = plan(20, **schedule)
    assert steps(made) == expected
    for phase in made.phases:
        assert phase.names == tuple(n for d in phase.depths for n in LAYERS.names(d))
    for now in range(20):
        assert made.begun(now) == sum(start <= now for start, _ in expected)


def test_steps_too_close_for_a_short_run_begin_together():
    assert steps(plan(4, until=0.5)) == [(1, (4, 3, 2, 1)), (2, (0,))]
    assert steps(plan(1, until=0.5)) == [(0, (4, 3, 2, 1, 0))]


def test_only_what_is_frozen_is_unfrozen():
    made = plan(9, initially_frozen=['1.weight', '3.weight', '3.bias'], every=1)
    assert steps(made) == [(1, (3,)), (2, (1,))]
    assert [phase.names for phase in made.phases] == [('3.weight', '3.bias'), ('1.weight',)]


@pytest.mark.parametrize(
    'schedule, message',
    [
        (dict(), 'exactly one of every, until, milestones, monitor'),
        (dict(every=1, until=0.5), 'exactly one of'),
        (dict(every=1, step=2), "has no option 'step'. Known options: every, begin"),
        (dict(every=1, layers_per_step=0), 'layers_per_step=0: expected 1 or more'),
        (dict(every=1, begin=0.5), 'both as whole numbers or both as fractions'),
        (dict(until=5), 'expected a fraction of the run'),
        (
            dict(every=4),
            r'Depths \[0\] would begin to train at epoch 20, but the run ends after 20 '
            r'epochs. Take more layers at a time \(layers_per_step=2\)',
        ),
        (dict(every=4, by_epoch=False), 'at iteration 20, but the run ends after 20 iterations'),
        (dict(milestones=[(20, 0)]), 'Bring the milestones forward'),
        (
            dict(milestones=[(5, '0:3'), (9, '2:4')]),
            r"Overlapping milestones: '2:4' at 9 has depths \[2\], which begin to train at 5 "
            'already',
        ),
        (dict(milestones=[(9, 3), (5, 2)]), 'must come in order of time, one for each: epoch 5 '),
        (dict(milestones=[(9, 3), (9, 2)]), 'must come in order of time'),
        (dict(milestones=[(5, 9)]), 'asks for depth 9, but the model has 6 layers'),
        (dict(milestones=[(5, -1)]), r'depths \[5\], none of which the hook freezes'),
        (dict(milestones=[(0, 3)]), 'what trains from the start is not to be frozen'),
        (dict(milestones=[(1.5, 3)]), '1.5 is no time'),
        (dict(monitor='a', rule='max'), "rule='max': expected 'greater' or 'less'"),
        (dict(monitor='a', patience=0), 'patience=0: expected 1 or more'),
        (dict(milestones=['5']), 'milestones must be pairs'),
        (dict(milestones={5: 3}), 'milestones must be pairs'),
    ],
    ids=str,
)
def test_wrong_use_is_told(schedule, message):
    with pytest.raises(ValueError, match=message):
        plan(20, **schedule)


@pytest.mark.parametrize(
    'monitor, rule, values, improved',
    [
        ('accuracy/top1', None, [1.0, 2.0, 2.0, 1.0], [True, True, False, False]),
        ('loss', None, [1.0, 2.0, 0.0], [True, False, True]),
        ('error', 'less', [1.0, 0.95, 0.5], [True, False, True]),
    ],
)
def test_what_counts_as_improvement(monitor, rule, values, improved):
    schedule = read_schedule(dict(monitor=monitor, rule=rule, min_delta=0.1))
    best, seen = None, []
    for value in values:
        seen.append(schedule.improves(value, best))
        best = value if seen[-1] else best
    assert seen == improved


def test_the_table_says_when_what_and_how_many():
    schedule = read_schedule(dict(milestones=[(2, '3:5'), (4, '0:3')]))
    table = plan_table(schedule.phases(LAYERS, ALL_BUT_HEAD), schedule, LAYERS, MODEL, ALL_BUT_HEAD)
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.splitlines()[4:]]
    assert rows == [
        ['0', 'the start', '', 'what is not frozen', '20', '16.7 %'],
        ['1', 'epoch 2', '3, 4', '3, 4', '60', '50.0 %'],
        ['2', 'epoch 4', '0-2', '0, 1, 2', '120', '100.0 %'],
    ]
