"""Define what counts as an image, as a class and as neither in a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable

import cv2

# OpenCV, which decodes for mmcv, reads these in every version, and the others where it was built
# with them.
_ALWAYS = (
    '.jpg',
    '.jpeg',
    '.jpe',
    '.jfif',
    '.png',
    '.bmp',
    '.ppm',
    '.pgm',
    '.pbm',
    '.pnm',
    '.tif',
    '.tiff',
    '.webp',
)
_WHERE_BUILT_IN = ('.gif', '.jp2', '.avif')
#: Extensions of image files, in lower case: of all that training can read.
EXTENSIONS = _ALWAYS + tuple(
    extension for extension in _WHERE_BUILT_IN if cv2.haveImageWriter(f'a{extension}')
)

# What systems and programs leave in folders of their own accord, in lower case.
_SYSTEM = {
    '__macosx',
    '@eadir',
    '#recycle',
    '#snapshot',
    '$recycle.bin',
    'recycler',
    'system volume information',
    'lost+found',
    'network trash folder',
    'temporary items',
    '__pycache__',
    'thumbs.db',
    'ehthumbs.db',
    'desktop.ini',
    'icon\r',
}


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or left behind by a system.

    Args:
        name: Its name, without the folder that it lies in.

    Example:
        >>> [is_system_name(n) for n in ('.ipynb_checkpoints', '__MACOSX', '._1.jpg', 'lost dogs')]
        [True, True, True, False]
    """
    return name.startswith('.') or name.lower() in _SYSTEM


def is_image_name(name: str) -> bool:
    """Return by its extension whether a file is an image.

    Example:
        >>> is_image_name('1.JPEG'), is_image_name('notes.txt'), is_image_name('png')
        (True, False, False)
    """
    return name.lower().endswith(EXTENSIONS)


class ByExtension:
    """Count files by their extensions, and remember one of each.

    Args:
        taken: Returns whether a file is taken.

    Attributes:
        left_out: Extension -> number of files that aren't taken.
        found: Extension -> number of files that are.
        example: Extension -> the first file that has it.
    """

    def __init__(self, taken: Callable[[str], bool] = is_image_name) -> None:
        self._taken = taken
        self._of_a_system: dict[str, bool] = {}
        self.left_out: Counter = Counter()
        self.found: Counter = Counter()
        self.example: dict[str, str] = {}

    def __call__(self, path: str) -> bool:
        """Return whether a file is taken; one of a system is neither taken nor counted."""
        folder, _, name = path.rpartition(os.sep)
        # Checked once a folder: there may be millions of files.
        if folder not in self._of_a_system:
            self._of_a_system[folder] = any(map(is_system_name, folder.split(os.sep)))
        if self._of_a_system[folder] or is_system_name(name):
            return False
        taken = self._taken(path)
        stem, _, extension = name.lower().rpartition('.')
        extension = f'.{extension}' if stem else ''
        (self.found if taken else self.left_out)[extension] += 1
        if extension not in self.example:
            self.example[extension] = path
        return taken

    def describe_left_out(self) -> str:
        """Describe the rest: ``'2 .heic (cat/1.heic), 1 without extension (cat/notes)'``."""
        return self._describe(self.left_out)

    def describe_found(self, extensions: Iterable[str]) -> str:
        """Describe how many files of some extensions were taken."""
        return self._describe({e: self.found[e] for e in extensions if self.found[e]})

    def _describe(self, counts: dict[str, int]) -> str:
        return ', '.join(
            f'{count} {extension or "without extension"} ({self.example[extension]})'
            for extension, count in sorted(counts.items())
        )
