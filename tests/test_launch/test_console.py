"""The console command runs what the tools run, from an installed wheel and any folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.forked import run_tool
from tl_plugin.launch import console
from tl_plugin.strategies import available_strategies

ROOT = Path(__file__).resolve().parents[2]


def test_every_tool_has_a_command_or_is_none_of_a_users():
    tools = {path.stem.replace('_', '-') for path in (ROOT / 'tools').glob('*.py')}
    helpers = {'arguments'}
    for_this_repository = {'measure', 'make-mnist-m', 'convert-efficientnet-lite0'}
    assert tools - helpers - for_this_repository == set(console.TOOLS)


@pytest.mark.parametrize('flag', [(), ('--help',), ('-h',)])
def test_it_lists_its_commands(flag, capsys):
    console.main(flag)
    listed = capsys.readouterr().out
    for command in (*console.TOOLS, 'configs', 'strategies'):
        (line,) = [line for line in listed.split('\n') if line.startswith(f'  {command} ')]
        assert len(line.split()) > 3


@pytest.mark.parametrize('command', console.TOOLS)
def test_each_command_has_help_under_its_own_name(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    monkeypatch.setattr(sys, 'path', list(sys.path))
    try:
        console.main([command, '--help'])
    except SystemExit as ended:
        assert not ended.code
    assert f'usage: tl-plugin {command}' in capsys.readouterr().out


def test_strategies_and_configs_are_listed_with_their_first_line(capsys):
    console.main(['strategies'])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(available_strategies())
    assert all(len(line.split()) > 3 for line in lines)
    console.main(['configs'])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('tl_plugin::digits/ladder.py ') for line in lines)
    assert not any('strategies/' in line or '_base_' in line for line in lines)


def test_an_unknown_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        console.main(['lader'])
    assert ended.value.code == 2
    assert "no command 'lader'. Did you mean 'ladder'?" in capsys.readouterr().err


def test_it_runs_a_tool_on_a_config_of_the_package(tmp_path):
    command = [console.__file__, 'show-layers', 'tl_plugin::digits/source_only.py']
    code, said = run_tool(*command, cwd=tmp_path)
    assert code == 0 and 'backbone' in said, said
    command = [console.__file__, 'train', 'tl_plugin::digits/source_onyl.py']
    code, said = run_tool(*command, cwd=tmp_path)
    assert code == 2 and 'source_only.py' in said
    assert said.startswith('tl-plugin train: error: '), said
