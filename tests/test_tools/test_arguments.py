"""Positional arguments may stand anywhere, also behind options with any number of values."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


def _parse(tool, line, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr(sys, 'argv', [tool, *line.split()])
    return runpy.run_path(str(TOOLS / f'{tool}.py'))['parse_args']()


@pytest.mark.parametrize(
    'line',
    [
        'C.py x.pth --strategy adabn dann --cfg-options a=1 b=c',
        '--strategy adabn dann C.py x.pth --cfg-options a=1 b=c',
        '--strategy adabn dann --cfg-options a=1 b=c C.py x.pth',
        'C.py --strategy adabn dann x.pth --cfg-options a=1 b=c',
        '--cfg-options a=1 b=c C.py --strategy adabn dann x.pth',
        '--strat adabn dann C.py --cfg-options a=1 b=c x.pth',
    ],
)
def test_any_order(line, monkeypatch):
    args = _parse('test', line, monkeypatch)
    assert (args.config, args.checkpoint) == ('C.py', 'x.pth')
    assert (args.strategy, args.cfg_options) == (['adabn', 'dann'], {'a': 1, 'b': 'c'})


@pytest.mark.parametrize(
    ('tool', 'line', 'expected'),
    [
        ('train', '--strategy mine.py C.py', dict(config='C.py', strategy=['mine.py'])),
        ('train', 'C.py --strategy mine.py', dict(config='C.py', strategy=['mine.py'])),
        ('train', '--strategy daan C.py', dict(config='C.py', strategy=['daan'])),
        ('train', 'C.py --strategy daan mcc', dict(config='C.py', strategy=['daan', 'mcc'])),
        (
            'train',
            '--strategy dann mmpretrain::a/b.py --amp',
            dict(config='mmpretrain::a/b.py', strategy=['dann'], amp=True),
        ),
        ('train', '--resume C.py', dict(config='C.py', resume='auto')),
        ('train', '--resume x.pth C.py', dict(config='C.py', resume='x.pth')),
        ('train', '--strategy=dann C.py', dict(config='C.py', strategy=['dann'])),
        (
            'interpolate',
            '--strategy dann C.py --alphas 0 1 a.pth b.pth',
            dict(config='C.py', source='a.pth', adapted=['b.pth'], alphas=[0, 1]),
        ),
        (
            'interpolate',
            '--statistics target C.py a.pth b.pth c.pth',
            dict(config='C.py', source='a.pth', adapted=['b.pth', 'c.pth'], statistics=['target']),
        ),
        ('show_layers', '--strategy fine_tune C.py', dict(config='C.py', strategy=['fine_tune'])),
        ('ladder', '--rungs adabn dann C.py', dict(config='C.py', rungs=['adabn', 'dann'])),
        ('ladder', '--seeds 0 1 C.py', dict(config='C.py', seeds=[0, 1])),
    ],
)
def test_what_an_option_gives_back(tool, line, expected, monkeypatch):
    args = vars(_parse(tool, line, monkeypatch))
    assert {name: args[name] for name in expected} == expected


@pytest.mark.parametrize(
    ('line', 'strategy'),
    [
        ('C.py x.pth a/ b/ --strategy adabn', ['adabn']),
        ('--strategy adabn C.py x.pth a/ b/', ['adabn']),
        ('C.py --strategy adabn x.pth a/ b/ --amp', ['adabn']),
        ('C.py x.pth --strategy adabn a/ b/', ['adabn']),
        ('C.py x.pth a/ --strategy adabn mine.py b/ --to-label 5', ['adabn', 'mine.py']),
        ('--strategy adabn mine.py C.py x.pth a/ b/', ['adabn', 'mine.py']),
        ('--amp --cfg-options c=d C.py x.pth a/ b/ --strategy adabn', ['adabn']),
    ],
)
def test_images_stand_anywhere_too(line, strategy, monkeypatch):
    args = _parse('predict', line, monkeypatch)
    assert (args.config, args.checkpoint, args.images) == ('C.py', 'x.pth', ['a/', 'b/'])
    assert args.strategy == strategy


@pytest.mark.parametrize('line', ['--strategy dann mcc', '--strategy dann', '--cfg-options a=1'])
def test_a_config_that_is_missing_is_missing(line, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        _parse('train', line, monkeypatch)
    assert 'the following arguments are required: config' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'line', 'message'),
    [
        ('train', 'C.py --cfg-options alone', "KEY=VALUE, got 'alone'"),
        ('train', 'C.py --cfg-options a=[1,(2', 'a=[1,(2: Imbalanced brackets'),
        ('diagnose', '--source a --target b --image-size 0', 'at least 1, got 0'),
        ('ladder', 'C.py --seeds 0 -1', 'expected a number from 0 to 2**32 - 1, got -1'),
        ('degrade', 'a b --num-corruptions two', "invalid count value: 'two'"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_of_the_command_line(
    tool, line, message, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as ended:
        _parse(tool, line, monkeypatch)
    assert ended.value.code == 2 and message in capsys.readouterr().err
