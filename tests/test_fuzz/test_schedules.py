"""Schedules of unfreezing: what they say, and whether a run has room for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.test_fuzz.refusal import examples, refused
from tests.test_fuzz.test_patterns import LAYERS, NAMES, OUTSIDE, UNREADABLE
from tl_plugin.engine.freezing.plan import UnfreezePlan
from tl_plugin.engine.hooks import GradualUnfreezeHook

KIND = 'schedules'
FROZEN = [name for name in NAMES if LAYERS.depth(name) < LAYERS.num_layers - 1]
SCHEDULES = st.sampled_from(
    [dict(every=1), dict(until=0.5), dict(milestones=[(1, 0)]), dict(monitor='accuracy/top1')]
)
NO_NUMBER = st.one_of(
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.binary(max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.sampled_from([float('nan'), float('inf'), float('-inf')]),
)


def plan(schedule, length=10):
    hook = GradualUnfreezeHook(schedule)
    return UnfreezePlan.make(hook.schedule, hook.schedule.phases(LAYERS, FROZEN), length)


@examples(20, KIND)
@given(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(),
        st.lists(SCHEDULES),
        st.just({}),
        st.dictionaries(st.text(max_size=4), st.integers(), min_size=1, max_size=2),
        st.tuples(SCHEDULES, SCHEDULES)
        .map(lambda two: {**two[0], **two[1]})
        .filter(lambda both: len(both) > 1),
    )
)
def test_no_schedule(schedule):
    refused(KIND, lambda: plan(schedule), 'schedule')


@examples(30, KIND)
@given(SCHEDULES, st.from_regex(r'[a-z]{3,8}(_[a-z]{3,6})?', fullmatch=True), st.integers())
def test_unknown_options(schedule, name, value):
    refused(KIND, lambda: plan({**schedule, f'{name}_x': value}), f'{name}_x')


@examples(60, KIND)
@given(
    st.sampled_from(
        [
            ('every', {}),
            ('until', {}),
            ('begin', dict(every=1)),
            ('patience', dict(monitor='a')),
            ('min_delta', dict(monitor='a')),
            ('layers_per_step', dict(every=1)),
        ]
    ),
    NO_NUMBER,
)
def test_values_that_are_no_numbers(option, value):
    name, others = option
    refused(KIND, lambda: plan({**others, name: value}), name)


@examples(30, KIND)
@given(
    st.one_of(
        st.builds(lambda n: (dict(every=n), n), st.integers(max_value=0)),
        st.builds(lambda n: (dict(every=n), n), st.floats(-5, 0)),
        st.builds(lambda n: (dict(until=n), 'until'), st.integers()),
        st.builds(lambda n: (dict(until=n), 'until'), st.floats(1.001, 9)),
        st.builds(lambda n: (dict(until=n), 'until'), st.floats(-5, 0)),
        st.builds(
            lambda n: (dict(every=1, layers_per_step=n), 'layers_per_step'),
            st.integers(max_value=0),
        ),
        st.builds(lambda n: (dict(monitor='a', patience=n), 'patience'), st.integers(max_value=0)),
        st.builds(lambda n: (dict(monitor='a', min_delta=n), 'min_delta'), st.floats(-5, -0.01)),
        st.builds(lambda n: (dict(every=n), 'run ends after'), st.integers(min_value=10)),
    )
)
def test_numbers_out_of_range(case):
    schedule, culprit = case
    refused(KIND, lambda: plan(schedule), culprit)


@examples(30, KIND)
@given(
    st.one_of(
        st.text(max_size=4),
        st.integers(),
        st.just([]),
        st.just(()),
        st.lists(st.integers(), min_size=1),
        st.lists(st.tuples(st.integers(), st.just(0), st.integers()), min_size=1, max_size=2),
        st.dictionaries(st.integers(), st.integers(), max_size=2),
    )
)
def test_milestones_that_are_no_pairs(milestones):
    refused(KIND, lambda: plan(dict(milestones=milestones)), 'milestones')


@examples(40, KIND)
@given(
    st.one_of(
        st.tuples(st.just(1), st.one_of(OUTSIDE, UNREADABLE)),
        st.tuples(
            st.one_of(
                NO_NUMBER,
                st.none(),
                st.booleans(),
                st.integers(max_value=0),
                st.integers(min_value=10),
                st.floats(1, 9),
            ),
            st.just(0),
        ),
    )
)
def test_wrong_milestones(pair):
    start, layers = pair
    culprits = (repr(layers),) if layers != 0 else (repr(start), f'epoch {start}')
    refused(KIND, lambda: plan(dict(milestones=[pair])), *culprits)


@examples(10, KIND)
@given(st.integers(1, 9), st.integers(1, 9))
def test_milestones_that_overlap_or_run_backwards(first, second):
    again = dict(milestones=[(first, 0), (first + second, 0)])
    refused(KIND, lambda: plan(again, 30), 'Overlapping')
    backwards = dict(milestones=[(first + second, 0), (first, 1)])
    refused(KIND, lambda: plan(backwards, 30), f'{first} follows')


@examples(20, KIND)
@given(
    st.sampled_from(['norm', 'norm_affine', 'dropout', 'droppath', 'check_ranks', 'warmup_iters']),
    st.one_of(st.text(max_size=5), st.integers(max_value=-1), st.floats(-3, -1), st.none()),
)
def test_other_options_of_the_hook(option, value):
    refused(KIND, lambda: GradualUnfreezeHook(dict(every=1), **{option: value}), option)
