"""End a tool with the message alone where its user can fix what is wrong.

An error that this package raises says what was expected, what came and how to fix it; so do those
of mmengine about configs and registries, and those of the system about files. A traceback before it
hides that. All other errors are defects of a program, and keep theirs.
"""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import mmengine

_PACKAGE = Path(__file__).resolve().parents[1]
_MMENGINE = Path(mmengine.__file__).resolve().parent
#: Folders of the code whose errors are written for users.
_FOR_USERS = (_PACKAGE, _PACKAGE.parent / 'tools', _MMENGINE / 'config', _MMENGINE / 'registry')


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool, and exit with its code; with 2 and a message where the user made a mistake.

    Args:
        main: The tool. Returns its exit code, or None for 0.

    Raises:
        Exception: Its own, where that is a defect of a program.
    """
    try:
        code = main()
    except Exception as error:
        if not is_mistake(error):
            raise
        # A KeyError shows its message as Python would write it in a program.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stdout.flush()
        print(f'{os.path.basename(sys.argv[0])}: error: {text}', file=sys.stderr)
        code = 2
    sys.exit(code)


def is_mistake(error: BaseException) -> bool:
    """Return whether an error tells users about something that is theirs to fix.

    Args:
        error: An error that was raised.

    Returns:
        Whether a ``raise`` of this package's code or of mmengine's for configs and registries made
        it, or the system, about a file. What Python raises by itself in that code is a defect.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return True
    place = error.__traceback__
    if place is None or isinstance(error, (AssertionError, NotImplementedError)):
        return False
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    if code.co_code[place.tb_lasti] != dis.opmap['RAISE_VARARGS']:
        return False
    file = Path(code.co_filename).resolve()
    return any(file.is_relative_to(folder) for folder in _FOR_USERS)
