"""Write files atomically: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

#: Name of a file while it is written.
TEMPORARY = '.{name}.{pid}.partial'


@contextmanager
def writing_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside the target to write to, then flush and rename it.

    Args:
        path: The file to write. Missing folders are made.

    Yields:
        The temporary file's path, for content that doesn't fit into memory. It is gone afterwards.

    Raises:
        OSError: If it can't be written; what was there before is untouched then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY.format(name=path.name, pid=os.getpid()))
    try:
        yield temporary
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a temporary file beside the target, flush it to the disk, then rename it.

    Args:
        path: The file to write. Missing folders are made.
        content: Its content.

    Raises:
        OSError: If it can't be written; what was there before is untouched then.
    """
    with writing_whole(path) as temporary:
        temporary.write_bytes(content)


def check_folder(folder: str | Path) -> None:
    """Make a folder and check that files can be written there, before long work begins.

    Args:
        folder: Where results go later.

    Raises:
        OSError: If they can't be; names the folder.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass


def _sync_folder(folder: Path) -> None:
    """Flush the new name to the disk too, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write a text, whole or not at all."""
    write_whole(path, text.encode('utf-8'))


def write_json(path: str | Path, content: dict) -> None:
    """Write a dict as readable JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + '\n')


def read_json(path: str | Path) -> dict | None:
    """Return the object that a JSON file holds, or None where there is no such file.

    Raises:
        ValueError: If it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f'{path} is no JSON: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected a JSON object, got {type(content).__name__}')
    return content


def remove_leftovers(folder: str | Path) -> list[str]:
    """Delete the temporary files of processes that were killed, and return their names.

    Args:
        folder: Where to look.
    """
    found = sorted(Path(folder).glob(TEMPORARY.format(name='*', pid='*')))
    for path in found:
        path.unlink(missing_ok=True)
    return [path.name for path in found]


@register_backend('whole_files', force=True)
class WholeFileBackend(LocalBackend):
    """mmengine's local files, written whole, and deleted only after others were written."""

    def __init__(self) -> None:
        self._to_delete: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file, whole or not at all."""
        write_whole(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write a text, whole or not at all."""
        write_whole(filepath, obj.encode(encoding))

    def remove(self, filepath: str | Path) -> None:
        """Delete a file, now or at the end of :meth:`deleting_last`."""
        if self._to_delete is None:
            super().remove(filepath)
        else:
            self._to_delete.append(str(filepath))

    @contextmanager
    def deleting_last(self) -> Iterator[None]:
        """Delete at the end what is removed inside; an error keeps it."""
        if self._to_delete is not None:
            yield
            return
        self._to_delete = []
        try:
            yield
            for path in self._to_delete:
                Path(path).unlink(missing_ok=True)
        finally:
            self._to_delete = None
