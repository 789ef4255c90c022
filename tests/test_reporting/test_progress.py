import io

import pytest

from tl_plugin.reporting.progress import ProgressDisplay, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_come_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4)).__next__
    monkeypatch.setattr('tl_plugin.reporting.progress.time.monotonic', clock)
    with ProgressDisplay(2) as display:
        display.start('dann (seed 0)')
        for iteration in range(6):
            display.update('dann (seed 0)', f'epoch 2/4, loss 0.{iteration}00')
        display.finish('dann (seed 0)', 'done')
        display.start('dann (seed 1)', 'other images [2]')
        for _ in range(3):
            display.update('dann (seed 1)', 'starting')
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '[1/2] dann (seed 0): starting'
    assert 1 <= sum('epoch 2/4' in line for line in lines) < 6
    told = '[2/2] dann (seed 1): starting: other images [2]'
    assert lines[-2:] == ['[1/2] dann (seed 0): done', told]


@pytest.mark.parametrize('failed', [False, True])
def test_bars_show_the_same(failed):
    with ProgressDisplay(2, Terminal(), 'ladder') as display:
        display.start('dann (seed 0)', 'other images [2]')
        display.update('dann (seed 0)', 'epoch 2/4', 30, 60)
        display.finish('dann (seed 0)', 'target [71.0%]', failed)
        display.finish('dann (seed 1)', 'kept', failed)
    shown = display._stream.getvalue()
    assert 'epoch 2/4' in shown or 'dann (seed 0)' in shown
    assert 'target [71.0%]' in shown and 'other images [2]' in shown
    assert '2/2 runs' in shown


@pytest.mark.parametrize('kind', [io.StringIO, Terminal])
def test_counted_work_ends_with_its_time(kind, monkeypatch):
    stream = kind()
    monkeypatch.setattr('sys.stderr', stream)
    with progress('Reading', 3) as advance:
        advance(1)
        advance(2)
    assert 'Reading' in stream.getvalue() and '3 in 0 s' in stream.getvalue()
