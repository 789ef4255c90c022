"""Find the images that a user means: folders, lists, globs and tables, a million of them too."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_plugin.datasets.folders import EXTENSIONS, ByExtension, is_system_name
from tl_plugin.intake.annotation_files import find_files, read_annotations

_TABLES = ('.csv', '.tsv', '.json', '.jsonl')
_FORMS = (
    'an image, a folder, a glob ("images/**/*.jpg"), a list of files (.txt, one a line) or a '
    f'table ({", ".join(_TABLES)})'
)


class ImageList(Sequence):
    """Names of images in one block of memory, which worker processes share without copying it.

    Args:
        names: Paths; those that come again are left out.
        labels: Path -> class, where it is known.
        notes: What was left out or read in another way than written, in sentences.
    """

    def __init__(
        self,
        names: Iterable[str],
        labels: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        joined, ends, self.labels, repeated = bytearray(), [0], {}, 0
        seen = set()
        for name in names:
            if name in seen:
                repeated += 1
                continue
            seen.add(name)
            if labels and name in labels:
                self.labels[len(ends) - 1] = labels[name]
            joined += os.fsencode(name)
            ends.append(len(joined))
        self._joined, self._ends = bytes(joined), np.array(ends, dtype=np.int64)
        again = [f'{repeated} images are given more than once, and predicted once.']
        self.notes = (*notes, *(again if repeated else ()))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self._joined[self._ends[index] : self._ends[index + 1]])

    def fingerprint(self) -> str:
        """Return a hash of all names in their order."""
        digest = hashlib.sha256(self._joined)
        digest.update(self._ends.tobytes())
        return digest.hexdigest()


def list_images(given: str | Path | Sequence[str | Path]) -> ImageList:
    """List images.

    Args:
        given: One or several of: an image; a folder, whose images at any depth are taken by their
            extension (:data:`tl_plugin.datasets.folders.EXTENSIONS`), hidden and system folders
            left out; a glob, ``**`` for any depth; a ``.txt`` file with a path a line; a table, see
            :func:`tl_plugin.intake.annotation_files.read_annotations`.

    Returns:
        The images, each once, folders in the order of their names.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it holds no images, or is of another form.
    """
    labels: dict[str, str] = {}
    notes: list[str] = []
    several = [given] if isinstance(given, (str, Path)) else list(given)
    found = ImageList((name for one in several for name in _names(str(one), labels, notes)), labels)
    found.notes = (*notes, *found.notes)
    if not len(found):
        raise ValueError(f'there is no image in {", ".join(map(str, several)) or "an empty list"}')
    return found


def _names(given: str, labels: dict[str, str], notes: list[str]) -> Iterable[str]:
    path = Path(given)
    if path.is_dir():
        return _in_folder(given, notes)
    if path.suffix.lower() in _TABLES and path.is_file():
        items, found = read_annotations(path, every_file=True)
        notes += found
        labels.update({item.name: item.label for item in items if item.label is not None})
        return [item.name for item in items]
    if path.suffix.lower() == '.txt' and path.is_file():
        return _in_list(path, notes)
    if path.is_file():
        if path.suffix.lower() in ('.py', '.pth', '.xlsx'):
            raise ValueError(f'{given} holds no images: expected {_FORMS}')
        return [given]
    if glob.has_magic(given):
        found = sorted(name for name in glob.iglob(given, recursive=True) if os.path.isfile(name))
        if found:
            return found
        raise FileNotFoundError(f'no file matches {given!r} (in {Path.cwd()})')
    raise FileNotFoundError(f'found nothing at {path.absolute()}: expected {_FORMS}')


def _in_folder(folder: str, notes: list[str]) -> Iterator[str]:
    taken, number = ByExtension(), 0
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_system_name(name))
        for name in sorted(files):
            path = os.path.join(root, name)
            if taken(os.path.relpath(path, folder)):
                number += 1
                yield path
    left_out = sum(taken.left_out.values())
    if left_out:
        notes.append(
            f'{folder}: {left_out} files are left out by their extension: '
            f'{taken.describe(taken.left_out)}. Images are {", ".join(EXTENSIONS)}.'
        )
    if not number:
        notes_here = (
            f'. {notes[-1]}' if left_out else f', expected files of {", ".join(EXTENSIONS)}'
        )
        raise ValueError(f'there is no image in {Path(folder).absolute()}{notes_here}')


def _in_list(path: Path, notes: list[str]) -> list[str]:
    text = path.read_bytes().decode('utf-8-sig', errors='surrogateescape')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found, missing, ways = find_files(path, lines)
    notes += [f'{path}: {way}.' for way in ways]
    if missing:
        notes.append(
            f'{path}: {len(missing)} of {len(lines)} files are not there, the first is '
            f'{lines[missing[0]]!r}; they stay in the output as unreadable.'
        )
    return found
