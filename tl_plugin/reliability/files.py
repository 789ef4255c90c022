"""Files that are either whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

#: What a file is called while it is written.
TEMPORARY = '.{name}.{pid}.partial'


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes beside the file, brings it to the disk, then renames it.

    Args:
        path: Where to.
        content: What.

    Raises:
        OSError: If it can't be written; what was there before is untouched then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY.format(name=path.name, pid=os.getpid()))
    try:
        with temporary.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Brings the new name to the disk too; some file systems know no such thing."""
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
    """Return a file's content, or None where there is no such file."""
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None


def remove_leftovers(folder: str | Path) -> list[str]:
    """Deletes what a process that was killed while it wrote has left, and names it.

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
        self._doomed: list[str] | None = None

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes a file, wholly or not at all."""
        write_whole(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes a text, wholly or not at all."""
        write_whole(filepath, obj.encode(encoding))

    def remove(self, filepath: str | Path) -> None:
        """Deletes a file, now or at the end of :meth:`deleting_last`."""
        if self._doomed is None:
            super().remove(filepath)
        else:
            self._doomed.append(str(filepath))

    @contextmanager
    def deleting_last(self) -> Iterator[None]:
        """What is deleted inside goes at the end, and stays if an error ends it."""
        if self._doomed is not None:
            yield
            return
        self._doomed = []
        try:
            yield
            for path in self._doomed:
                Path(path).unlink(missing_ok=True)
        finally:
            self._doomed = None
