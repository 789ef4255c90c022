"""The console command ``tl-plugin`` and commands of the tools that can be copied."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tl_plugin.stack.messages import did_you_mean
from tl_plugin.strategies import available_strategies, configs_dir, headline

_PACKAGE = Path(__file__).resolve().parents[1]

#: Commands that run a tool, in the order in which a user needs them.
TOOLS = (
    'diagnose',
    'ladder',
    'train',
    'test',
    'calibrate',
    'predict',
    'show-layers',
    'interpolate',
    'export',
    'check-labels',
    'degrade',
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a tool as ``python tools/TOOL.py`` does, or list configs or strategies.

    Args:
        arguments: The command and its arguments. Defaults to None, those of the command line.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, *rest = arguments or ['--help']
    lists = {'configs': _configs, 'strategies': _strategies}
    if command in ('-h', '--help'):
        print(_usage())
    elif command in lists and not {'-h', '--help'} & set(rest):
        print('\n'.join(lists[command]()))
    elif command in lists:
        print(f'usage: tl-plugin {command}\n\n{_LISTS[command]}')
    elif command in TOOLS:
        _run(command, rest)
    else:
        hint = did_you_mean(command, [*TOOLS, *lists])
        print(f'{_usage()}\n\ntl-plugin: error: no command {command!r}.{hint}', file=sys.stderr)
        sys.exit(2)


_LISTS = {
    'configs': 'List the configs that came with the package.',
    'strategies': 'List the strategies for --strategy.',
}


def _run(command: str, arguments: list[str]) -> None:
    path = tool_path(_file(command))
    # What Python does for a script: the tools import each other from their folder.
    sys.path.insert(0, str(path.parent))
    # runpy would put the tool's path into the usage that its parser shows.
    sys.argv = [f'tl-plugin {command}', *arguments]
    code = compile(path.read_text(encoding='utf-8'), str(path), 'exec')
    exec(code, {'__name__': '__main__', '__file__': str(path)})


def _file(command: str) -> str:
    return f'{command.replace("-", "_")}.py'


def _usage() -> str:
    rows = {command: _headline_of_tool(tool_path(_file(command))) for command in TOOLS}
    rows.update(_LISTS)
    width = max(map(len, rows))
    listed = '\n'.join(f'  {command:{width}}  {about}' for command, about in rows.items())
    return (
        'usage: tl-plugin COMMAND [ARGUMENTS]\n\n'
        'Transfer learning and domain adaptation for mmpretrain.\n\n'
        f'{listed}\n\nWhat a command takes: tl-plugin COMMAND --help'
    )


def _headline_of_tool(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return docstring.partition('\n')[0]


def _configs() -> list[str]:
    folder = configs_dir()
    paths = [path.relative_to(folder) for path in sorted(folder.rglob('*.py'))]
    shown = [path for path in paths if path.parts[0] != 'strategies' and '_base_' not in path.parts]
    names = [f'tl_plugin::{path.as_posix()}' for path in shown]
    width = max(map(len, names))
    return [
        f'{name:{width}}  {headline(folder / path)}'.rstrip() for name, path in zip(names, shown)
    ]


def _strategies() -> list[str]:
    found = available_strategies()
    width = max(map(len, found))
    return [f'{name:{width}}  {headline(path)}'.rstrip() for name, path in found.items()]


def tool_path(tool: str) -> Path:
    """Return where a tool of this package lies: in a checkout, or as an installed package has it.

    Args:
        tool: Its file: 'ladder.py'.
    """
    places = (_PACKAGE.parent / 'tools', _PACKAGE / '.mim' / 'tools')
    return next((place / tool for place in places if (place / tool).is_file()), Path('tools', tool))


def tool_command(tool: str, *arguments: object) -> str:
    r"""Write the command that runs a tool of this package from the current folder.

    Args:
        tool: Its file: 'ladder.py'.
        *arguments: Its arguments; paths with spaces and quotes are quoted.

    Example:
        >>> tool_command('ladder.py', "it's mine/config.py").partition('ladder.py')[2]
        ' \'it\'"\'"\'s mine/config.py\''
    """
    path = tool_path(tool)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    found = shutil.which('python')
    python = 'python' if found and os.path.abspath(found) == sys.executable else sys.executable
    return shlex.join([python, str(path), *map(str, arguments)])


if __name__ == '__main__':
    main()
