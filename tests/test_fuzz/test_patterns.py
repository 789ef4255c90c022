"""What selects layers: depths, regular expressions, kinds of modules."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.test_fuzz.refusal import examples, refused
from tl_plugin.engine.hooks import FreezeHook
from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.layers.selection import parse_depths

KIND = 'patterns'
LAYERS = LayerMap.from_model(
    nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
)
NAMES = [name for depth in range(LAYERS.num_layers) for name in LAYERS.names(depth)]


def is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


NO_REGEX = st.text('()[]*+?\\ab{}', min_size=1, max_size=8).filter(lambda text: not is_regex(text))
NO_MATCH = st.from_regex(r'[a-z]{3,9}(\.[a-z0-9]{1,6}){0,3}', fullmatch=True).filter(
    lambda text: not any(re.search(text, name) for name in NAMES)
)
NO_TEXT = st.one_of(st.integers(), st.floats(), st.none(), st.binary(), st.lists(st.text()))

OUTSIDE = st.one_of(st.integers(min_value=LAYERS.num_layers), st.integers(max_value=-9))
READABLE = re.compile(r'\s*(-?\d+)?\s*(:\s*(-?\d+)?\s*){0,2}')
UNREADABLE = st.one_of(
    st.text(max_size=12).filter(lambda text: not READABLE.fullmatch(text) or not text.strip()),
    st.floats(),
    st.booleans(),
    st.dictionaries(st.integers(), st.integers(), max_size=2),
    st.binary(max_size=4),
    st.sets(st.integers(), max_size=2),
    st.builds(slice, st.text(min_size=1, max_size=3)),
    st.integers(min_value=10**9).map(str),
    st.just('0:3:0'),
    st.just('1:2:3:4'),
)
NOTHING = st.one_of(st.just([]), st.just('2:1'), st.just('1:1'), st.just(':0'), st.just('-1:-2'))


def freeze(**selection):
    return FreezeHook(**selection).select(LAYERS)


@examples(60, KIND)
@given(st.one_of(OUTSIDE, UNREADABLE, NOTHING, OUTSIDE.map(lambda depth: f'{depth}')))
def test_depths(layers):
    refused(KIND, lambda: parse_depths(layers, LAYERS.num_layers), f'layers={layers!r}')


@examples(30, KIND)
@given(st.lists(st.just(0), max_size=2), st.one_of(OUTSIDE, UNREADABLE))
def test_depths_in_a_list(good, bad):
    refused(KIND, lambda: freeze(layers=[*good, bad]), repr(bad))


@examples(60, KIND)
@given(st.one_of(NO_REGEX, NO_MATCH), st.booleans())
def test_patterns(pattern, beside_a_good_one):
    given_patterns = ['0.weight', pattern] if beside_a_good_one else pattern
    refused(KIND, lambda: freeze(patterns=given_patterns), repr(pattern))


@examples(30, KIND)
@given(st.sampled_from(['patterns', 'modules']), NO_TEXT)
def test_patterns_that_are_no_text(option, value):
    refused(KIND, lambda: freeze(**{option: [value]}), repr(value), option)


@examples(30, KIND)
@given(st.from_regex(r'[A-Z][a-z]{2,9}(2d|Norm)?', fullmatch=True))
def test_kinds_of_modules(name):
    if name in ('Linear', 'Flatten', 'Sequential'):
        return
    refused(KIND, lambda: freeze(modules=name), repr(name))


@pytest.mark.parametrize('empty', ['', [], ()])
def test_nothing_at_all(empty):
    refused(KIND, lambda: freeze(patterns=empty, modules=empty), 'patterns', repr(empty))
    refused(KIND, lambda: freeze(patterns=['']), "''")
    refused(KIND, FreezeHook, 'FreezeHook selects nothing')
