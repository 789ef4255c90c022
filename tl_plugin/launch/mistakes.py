"""End a tool with the message alone where its user can fix what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from tl_plugin.stack.mistakes import is_mistake


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool, and exit with its code; with 2 and a message where the user made a mistake.

    One of several processes also leaves its error where ``torchrun`` looks for it. With
    ``TL_PLUGIN_TRACEBACK=1`` in the environment, each error keeps its traceback: where an error
    that this package raises is no mistake of the user's, it shows the defect.

    Args:
        main: The tool. Returns its exit code, or None if the program is to go on.

    Raises:
        Exception: Its own, where that is a defect of a program.
    """
    errors = get_error_handler()
    errors.initialize()
    try:
        code = main()
    except Exception as error:
        mistake = os.environ.get('TL_PLUGIN_TRACEBACK') != '1' and is_mistake(error)
        if mistake:
            error.__traceback__, error.__suppress_context__, error.__cause__ = None, True, None
        errors.record_exception(error)
        if not mistake:
            raise
        # A KeyError shows its message as Python would write it in a program.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stdout.flush()
        print(f'{os.path.basename(sys.argv[0])}: error: {text}', file=sys.stderr)
        code = 2
    if code is not None:
        sys.exit(code)
