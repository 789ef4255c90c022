import logging

import pytest
from mmengine.logging import MMLogger
from torch import nn

from tl_plugin.engine.layers import LayerMap
from tl_plugin.engine.layers.selection import parse_depths

from .networks import Block


@pytest.fixture(scope='module')
def layers():
    return LayerMap.from_model(nn.Sequential(nn.Linear(4, 4), Block(4), Block(4), nn.Linear(4, 2)))


@pytest.mark.parametrize(
    'spec, expected',
    [
        (0, [0]),
        (-1, [4]),
        ('3', [3]),
        ('-2', [3]),
        (':-1', [0, 1, 2, 3]),
        ('0:4', [0, 1, 2, 3]),
        ('2:', [2, 3, 4]),
        (':', [0, 1, 2, 3, 4]),
        ('::2', [0, 2, 4]),
        ('::-2', [0, 2, 4]),
        ('-2:', [3, 4]),
        (':5', [0, 1, 2, 3, 4]),
        (slice(1, 3), [1, 2]),
        ([0, '3:'], [0, 3, 4]),
        ((1, 1, -1), [1, 4]),
        (' 1 : 3 ', [1, 2]),
    ],
)
def test_depths_are_read_like_slices(spec, expected):
    assert parse_depths(spec, 5) == expected


@pytest.mark.parametrize(
    'spec, message',
    [
        (5, 'asks for depth 5.*0 .stem. to 4'),
        (-6, 'depth -6'),
        ('0:6', 'depth 6'),
        ('-7:', 'depth -7'),
        ('3:3', 'selects no layer'),
        ([], 'selects no layer'),
        ('', "can't be read"),
        ('a:b', "can't be read"),
        ('1:2:3:4', "can't be read"),
        ('::0', "can't be read"),
        (1.5, "can't be read"),
        (True, "can't be read"),
        (slice(0, 4, 0), "can't be read"),
        ([0, 9], 'depth 9'),
        (None, "can't be read"),
    ],
)
def test_what_depths_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_depths(spec, 5)


def test_selections_add_up_in_the_order_of_the_model(layers):
    chosen = layers.select(layers=-1, patterns=[r'^2\.norm', '^0.bias'], modules='LayerNorm')
    assert chosen == [
        '0.bias',
        '1.norm.weight',
        '1.norm.bias',
        '2.norm.weight',
        '2.norm.bias',
        '3.weight',
        '3.bias',
    ]
    assert layers.select(modules='Block') == layers.select('1:3')


@pytest.mark.parametrize(
    'wanted, message',
    [
        (
            dict(patterns='2.nrm.weight'),
            r"'2.nrm.weight' matches no parameter. Nearest: 2.norm.weight",
        ),
        (
            dict(patterns=['bias', 'zzz']),
            "'zzz' matches no parameter. Known names begin with: 0, 1",
        ),
        (dict(patterns='['), 'is no regular expression'),
        (dict(patterns=[]), 'Nothing to select'),
        (dict(modules='LayrNorm'), "'LayrNorm' selects no parameter. Nearest: LayerNorm"),
        (dict(layers=7), 'asks for depth 7'),
        (dict(), 'Nothing to select by'),
    ],
)
def test_a_selection_of_nothing_is_an_error_with_its_cure(layers, wanted, message):
    with pytest.raises(ValueError, match=message):
        layers.select(**wanted)


def test_the_log_counts_what_each_part_selects(layers):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.handlers.append(handler)
    try:
        layers.select(layers='1:3', patterns='bias')
    finally:
        logger.handlers.remove(handler)
    assert lines == [
        "The layers '1:3' selects 14 parameters, 1.scale to 2.norm.bias.",
        "The pattern 'bias' selects 8 parameters, 0.bias to 3.bias.",
    ]
