"""Define what is an image and a class in a folder, and make mmpretrain read folders so.

mmpretrain ignores hidden files, but takes hidden and system folders (``.ipynb_checkpoints``,
``__MACOSX``) for classes, and silently leaves out files with extensions other than its own.
:func:`patch_stock_folders` changes that for ``CustomDataset`` and what derives from it:

- hidden and system folders are no classes, and nothing below them is an image;
- the default of ``extensions`` is :data:`EXTENSIONS`, of which mmpretrain's own default is a part;
  a config that sets ``extensions`` is followed;
- what is left out by its extension is logged, with numbers and an example, and likewise what
  mmpretrain without this package would leave out.

Annotation files (``ann_file``) are read as before.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import cv2
from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset, ImageNet, ImageNet21k, Places205, custom

# OpenCV, which decodes for mmcv, reads these in every version, and the others where it was built
# with them.
_ALWAYS = '.jpg .jpeg .jpe .jfif .png .bmp .ppm .pgm .pbm .pnm .tif .tiff .webp'
_WHERE_BUILT_IN = ('.gif', '.jp2', '.avif')
#: Extensions of image files, in lower case: of all that training can read.
EXTENSIONS = tuple(_ALWAYS.split()) + tuple(
    extension for extension in _WHERE_BUILT_IN if cv2.haveImageWriter(f'a{extension}')
)
#: What mmpretrain itself takes where a config sets no ``extensions``.
STOCK_EXTENSIONS: tuple[str, ...] = (
    inspect.signature(CustomDataset.__init__).parameters['extensions'].default
)
_stock_folders, _stock_samples = custom.find_folders, CustomDataset._find_samples

# Names of files and folders that systems and programs create, in lower case.
_SYSTEM_WORDS = (
    '__macosx @eadir #recycle #snapshot $recycle.bin recycler lost+found __pycache__ '
    'thumbs.db ehthumbs.db desktop.ini'
)
_SYSTEM_PHRASES = ('system volume information', 'network trash folder', 'temporary items')
_SYSTEM = {*_SYSTEM_WORDS.split(), *_SYSTEM_PHRASES, 'icon\r'}


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

    def describe(self, counts: Mapping[str, int]) -> str:
        """Describe counts: ``'2 .heic (cat/1.heic), 1 without extension (cat/notes)'``."""
        return ', '.join(
            f'{count} {extension or "without extension"} ({self.example[extension]})'
            for extension, count in sorted(counts.items())
        )


def patch_stock_folders() -> None:
    """Patch mmpretrain's reading of folders, once, in the process that calls it."""
    if custom.find_folders is _find_folders:
        return
    custom.find_folders, CustomDataset._find_samples = _find_folders, _find_samples
    init = CustomDataset.__init__
    init.__defaults__ = tuple(
        EXTENSIONS if value == STOCK_EXTENSIONS else value for value in init.__defaults__
    )
    for kind in (ImageNet, ImageNet21k, Places205):  # which have a copy of their own
        if getattr(kind, 'IMG_EXTENSIONS', ()) == STOCK_EXTENSIONS:
            kind.IMG_EXTENSIONS = EXTENSIONS


def _find_folders(root: str, backend: Any = None) -> tuple[list[str], dict[str, int]]:
    """Find class folders as mmpretrain does, without hidden and system folders."""
    folders, _ = _stock_folders(root, backend)
    classes = [name for name in folders if not is_system_name(name)]
    if len(classes) < len(folders):
        names = ', '.join(name for name in folders if is_system_name(name))
        print_log(f'{root}: {names}: hidden or system folders are no classes.', 'current')
    return classes, {name: number for number, name in enumerate(classes)}


def _find_samples(dataset: CustomDataset) -> Any:
    """Find files as mmpretrain does, and log what is left out or read beyond its own."""
    # An attribute of the instance hides the method while the files are listed.
    dataset.is_valid_file = files = ByExtension(dataset.is_valid_file)
    try:
        return _stock_samples(dataset)
    finally:
        del dataset.is_valid_file
        _log_files(dataset, files)


def _log_files(dataset: CustomDataset, files: ByExtension) -> None:
    more = {e: n for e, n in files.found.items() if not e.endswith(STOCK_EXTENSIONS)}
    if more:
        print_log(
            f'{dataset.img_prefix}: of {sum(files.found.values())} images, '
            f'{files.describe(more)} are read; without tl_plugin, mmpretrain leaves '
            f'them out unless extensions=({", ".join(map(repr, sorted(more)))}, ...) says so.',
            logger='current',
        )
    if files.left_out:
        print_log(
            f'{dataset.img_prefix}: {sum(files.left_out.values())} files are left out by their '
            f'extension: {files.describe(files.left_out)}. {_fix(dataset, files)}',
            logger='current',
            level=logging.WARNING,
        )


def _fix(dataset: CustomDataset, files: ByExtension) -> str:
    lacking = sorted(e for e in files.left_out if e.endswith(EXTENSIONS))
    if lacking:
        known = (*sorted(dataset.extensions), *lacking)
        return f'To have them read, give the data set extensions={known!r}.'
    return (
        'If they are images, convert them, or rename them where the extension is all that is '
        f'wrong; read are {", ".join(sorted(dataset.extensions))}.'
    )
