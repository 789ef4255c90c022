"""Where one process fails, all do, and none waits for another."""

import pytest

from tests.distributed import run_distributed
from tl_plugin.reliability.ranks import on_all_ranks, on_main_process


class Odd(Exception):
    """Can't be made again from its arguments."""

    def __init__(self, one, other):
        super().__init__(f'{one} {other}')


def _raise(error):
    raise error


def _caught(function):
    try:
        return function()
    except Exception as error:
        return type(error).__name__, str(error)


def _on_rank(_):
    from mmengine.dist import get_rank

    rank, told = get_rank(), []
    return [
        _caught(lambda: on_main_process(lambda: told.append(rank) or 'done')),
        told,
        _caught(lambda: on_main_process(lambda: _raise(KeyError('x')))),
        _caught(lambda: on_main_process(lambda: _raise(Odd(1, 2)))),
        _caught(lambda: on_all_ranks(lambda: rank * 10)),
        _caught(lambda: on_all_ranks(lambda: rank and _raise(OSError('disk is full')))),
    ]


def test_results_and_errors_reach_every_rank():
    one, other = run_distributed(_on_rank, None)
    assert one == [
        'done',
        [0],
        ('KeyError', "'x'"),
        ('Odd', '1 2'),
        [0, 10],
        ('OSError', 'disk is full'),
    ]
    expected = list(one)
    expected[1], expected[3] = [], ('RuntimeError', 'rank 0: Odd: 1 2')
    assert other == expected


def test_one_process_needs_nobody():
    assert on_main_process(lambda: 3) == 3 and on_all_ranks(lambda: 3) == [3]
    with pytest.raises(Odd):
        on_main_process(lambda: _raise(Odd(1, 2)))
