"""Make mmpretrain's CustomDataset read folders of images as this package reads them.

mmpretrain ignores hidden files, but takes hidden and system folders (``.ipynb_checkpoints``,
``__MACOSX``) for classes, and silently leaves out files with extensions other than its own.
Importing this module changes that for ``CustomDataset`` and what derives from it, in every process
that builds one:

- hidden and system folders are no classes, and nothing below them is an image;
- the default of ``extensions`` is :data:`tl_plugin.datasets.folders.EXTENSIONS`, of which
  mmpretrain's own default is a part; a config that sets ``extensions`` is followed;
- what is left out by its extension is logged, with numbers and an example, and likewise what
  mmpretrain without this package would leave out.

Annotation files (``ann_file``) are read as before.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import CustomDataset, ImageNet, ImageNet21k, Places205, custom

from .folders import EXTENSIONS, ByExtension, is_system_name

#: What mmpretrain itself takes where a config sets no ``extensions``.
STOCK_EXTENSIONS: tuple[str, ...] = (
    inspect.signature(CustomDataset.__init__).parameters['extensions'].default
)


def patch_stock_folders() -> None:
    """Patch mmpretrain's reading of folders, once."""
    if getattr(custom.find_folders, 'changed', False):
        return
    custom.find_folders = _without_system_folders(custom.find_folders)
    CustomDataset._find_samples = _counting_files(CustomDataset._find_samples)
    init = CustomDataset.__init__
    init.__defaults__ = tuple(
        EXTENSIONS if value == STOCK_EXTENSIONS else value for value in init.__defaults__
    )
    for kind in (ImageNet, ImageNet21k, Places205):  # which have a copy of their own
        if getattr(kind, 'IMG_EXTENSIONS', ()) == STOCK_EXTENSIONS:
            kind.IMG_EXTENSIONS = EXTENSIONS


def _without_system_folders(find_folders: Any) -> Any:
    @functools.wraps(find_folders)
    def find(root: str, backend: Any = None) -> tuple[list[str], dict[str, int]]:
        folders, _ = find_folders(root, backend)
        classes = [name for name in folders if not is_system_name(name)]
        if len(classes) < len(folders):
            names = ', '.join(name for name in folders if is_system_name(name))
            print_log(f'{root}: {names}: hidden or system folders are no classes.', 'current')
        return classes, {name: number for number, name in enumerate(classes)}

    find.changed = True
    return find


def _counting_files(find_samples: Any) -> Any:
    @functools.wraps(find_samples)
    def find(dataset: CustomDataset) -> Any:
        # An attribute of the instance hides the method while the files are listed.
        dataset.is_valid_file = files = ByExtension(dataset.is_valid_file)
        try:
            return find_samples(dataset)
        finally:
            del dataset.is_valid_file
            _log_files(dataset, files)

    return find


def _log_files(dataset: CustomDataset, files: ByExtension) -> None:
    more = [extension for extension in files.found if not extension.endswith(STOCK_EXTENSIONS)]
    if more:
        print_log(
            f'{dataset.img_prefix}: of {sum(files.found.values())} images, '
            f'{files.describe_found(sorted(more))} are read; without tl_plugin, mmpretrain leaves '
            f'them out unless extensions=({", ".join(map(repr, sorted(more)))}, ...) says so.',
            logger='current',
        )
    if files.left_out:
        print_log(
            f'{dataset.img_prefix}: {sum(files.left_out.values())} files are left out by their '
            f'extension: {files.describe_left_out()}. {_fix(dataset, files)}',
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
