import io

import pytest

from tl_plugin.ladder.display import BarDisplay, LineDisplay, describe
from tl_plugin.ladder.progress import Progress

HALFWAY = Progress('training', 30, 60, 2, 4, 0.5, 12.0, 11.6)


def test_progress_in_words():
    assert describe(Progress()) == 'starting'
    assert describe(HALFWAY) == 'epoch 2/4, loss 0.500, 12 s left'
    assert describe(HALFWAY._replace(epoch=0, max_epochs=0)).startswith('iteration 30/60, ')
    assert describe(HALFWAY._replace(phase='testing')) == 'testing'


def test_lines_come_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4)).__next__
    monkeypatch.setattr('tl_plugin.ladder.display.time.monotonic', clock)
    with LineDisplay(2) as display:
        display.start('dann (seed 0)')
        for iteration in range(6):
            display.update('dann (seed 0)', HALFWAY._replace(loss=iteration / 10))
        display.finish('dann (seed 0)', 'done')
        display.start('dann (seed 1)')
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '[1/2] dann (seed 0): starting'
    assert 1 <= sum('epoch 2/4' in line for line in lines) < 6
    assert lines[-2:] == ['[1/2] dann (seed 0): done', '[2/2] dann (seed 1): starting']


@pytest.mark.parametrize('method', ['finish', 'fail'])
def test_bars_say_the_same(method):
    display = BarDisplay(2)
    display._bars.console.file = io.StringIO()
    with display:
        display.start('dann (seed 0)')
        display.update('dann (seed 0)', HALFWAY)
        getattr(display, method)('dann (seed 0)', 'target [71.0%]')
        getattr(display, method)('dann (seed 1)', 'kept')
    shown = display._bars.console.file.getvalue()
    assert 'target [71.0%]' in shown
    assert '2/2 runs' in shown
