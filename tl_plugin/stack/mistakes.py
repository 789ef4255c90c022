"""Tell errors that users can fix from defects of a program.

An error that this package raises says what was expected, what came and how to fix it; so do those
of mmengine about configs and registries, and those of the system about files. A traceback before it
hides that. All other errors are defects of a program, and keep theirs.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import mmengine
from mmengine.registry import build_functions
from mmengine.runner import runner

_PACKAGE = Path(__file__).resolve().parents[1]
_MMENGINE = Path(mmengine.__file__).resolve().parent
#: Folders of the code whose errors are written for users.
_FOR_USERS = (_PACKAGE, _PACKAGE.parent / 'tools', _MMENGINE / 'config', _MMENGINE / 'registry')
_BUILDING = (build_functions.__file__, runner.__file__)


def is_mistake(error: BaseException) -> bool:
    """Return whether an error tells users about something that is theirs to fix.

    Args:
        error: An error that was raised.

    Returns:
        Whether a ``raise`` of this package's code or of mmengine's for configs and registries made
        it; or one of any code, or wrong arguments, while something was built as a config says; or
        the system, about a file. What else Python raises by itself is a defect.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return True
    places = list(_places(error))
    if not places or isinstance(error, (AssertionError, NotImplementedError)):
        return False
    building = any(c.co_filename in _BUILDING and c.co_name.startswith('build') for c, _ in places)
    if building and isinstance(error, TypeError) and 'argument' in str(error):
        return True
    code, instruction = places[-1]
    if code.co_code[instruction] != dis.opmap['RAISE_VARARGS']:
        return False
    if building and isinstance(error, ValueError):
        return True
    if code.co_name in ('__missing__', '__getattr__'):
        return False  # of a ConfigDict, say: `KeyError: 'model'` and no more
    file = Path(code.co_filename).resolve()
    return any(file.is_relative_to(folder) for folder in _FOR_USERS)


def _places(error: BaseException) -> Iterator[tuple[CodeType, int]]:
    """Yield the code of each frame of a traceback, the innermost last, and its instruction."""
    place = error.__traceback__
    while place is not None:
        yield place.tb_frame.f_code, place.tb_lasti
        place = place.tb_next
