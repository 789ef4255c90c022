"""Find this package's command-line tools, and write commands that can be copied."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


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
