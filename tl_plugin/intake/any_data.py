"""Read data of any form: class folders, annotation files, mmpretrain configs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.datasets.folders import EXTENSIONS, ByExtension, is_image_name, is_system_name
from tl_plugin.datasets.wrappers import dataset_class, unwrapped, wrapped
from tl_plugin.stack.options import type_name

from .annotation_files import read_annotations, split_name
from .images import SPLITS, TRAIN, DomainImages, ImageItem

_TABLES = ('.csv', '.tsv', '.json', '.jsonl')


def read_data(given: str | Path, every_file: bool = False) -> DomainImages:
    """List a domain's images, with labels and splits where the data have them.

    Args:
        given: One of

            - a folder: ``CLASS/...`` (sub-folders are classes), ``{train,val,test}/CLASS/...``, or
              images without classes. Images are the files with one of
              :data:`tl_plugin.datasets.folders.EXTENSIONS`; hidden and system folders are none;
            - an annotation file, ``.csv``, ``.tsv``, ``.json`` or ``.jsonl``, see
              :func:`tl_plugin.intake.annotation_files.read_annotations`;
            - an mmpretrain config, ``.py`` or ``package::path``: the data sets of its three
              loaders, or its ``dataset`` alone. Wrapped data sets are opened; each image comes
              once.
        every_file: List files of all extensions too, and files of a table that do not exist, for
            code that checks each. Defaults to False.

    Returns:
        The images. ``notes`` say what was left out and why.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it holds no images, or isn't one of these.
    """
    path = Path(given)
    if '::' in str(given) or path.suffix == '.py':
        from tl_plugin.launch.configs import load_data_config

        cfg = load_data_config(str(given))
        return read_datasets(_dataset_configs(cfg, str(given)), cfg, str(given))
    if not path.exists():
        raise FileNotFoundError(
            f'found no data at {path.absolute()}: expected a folder of images, an annotation file '
            f'({", ".join(_TABLES)}) or an mmpretrain config (.py)'
        )
    if path.is_dir():
        return _read_folder(path, str(given), every_file)
    if path.suffix.lower() not in _TABLES:
        raise ValueError(
            f'{path} is neither a folder nor one of {", ".join(_TABLES)}, .py: expected class '
            'folders, an annotation file (save a spreadsheet as "CSV UTF-8") or an mmpretrain '
            'config'
        )
    items, notes = read_annotations(path, every_file)
    classes = sorted({item.label for item in items if item.label is not None})
    return DomainImages(str(given), tuple(items), tuple(classes), notes=tuple(notes))


def without_labels(domain: DomainImages) -> DomainImages:
    """Return a domain without labels, whatever its folders, tables or data sets say.

    Args:
        domain: The domain. It isn't changed.

    Example:
        >>> without_labels(DomainImages('x', (ImageItem('2026-01/1.jpg', '2026-01'),))).labelled
        False
    """
    datasets = {}
    for name, config in (domain.datasets or {}).items():
        metainfo = {**(config.get('metainfo') or {}), 'classes': ()}
        datasets[name] = {**config, 'metainfo': metainfo}
        datasets[name].pop('classes', None)
        kind = dataset_class(config)
        if isinstance(kind, type) and issubclass(kind, CustomDataset):
            datasets[name]['with_label'] = False
    items = (replace(item, label=None) for item in domain.items)
    return replace(domain.with_items(items), classes=(), datasets=datasets or None)


def read_both_domains(given: str | Path) -> dict[str, DomainImages]:
    """List the images of both domains of one config.

    Args:
        given: An mmpretrain config, ``.py`` or ``package::path``. Its three loaders are the source;
            the target is ``ladder.target_dataloader`` or else ``train_cfg.target_dataloader``, and
            the domain ``target`` of ``val_cfg`` and ``test_cfg``.

    Returns:
        ``source`` and ``target``.

    Raises:
        ValueError: If the config has no target.
    """
    from tl_plugin.engine.loops.inherit import inherit_dataloader
    from tl_plugin.launch.configs import load_data_config

    cfg = load_data_config(given)
    loops = {split: cfg.get(f'{split}_cfg') or {} for split in SPLITS}
    unlabelled = (cfg.get('ladder') or {}).get('target_dataloader')
    loaders = {
        split: (loop.get('dataloaders') or {}).get('target') for split, loop in loops.items()
    }
    loaders['train'] = unlabelled or loops['train'].get('target_dataloader')
    target = {
        split: inherit_dataloader(
            cfg[f'{split}_dataloader'], loader, f'target of {split}_cfg', labelled=split != 'train'
        )
        for split, loader in loaders.items()
        if loader
    }
    if not target:
        raise ValueError(
            f'{given} names no target: expected ladder.target_dataloader, '
            'train_cfg.target_dataloader, or a domain target in val_cfg or test_cfg; or give '
            '--source and --target'
        )
    source = read_datasets(_dataset_configs(cfg, str(given)), cfg, str(given))
    datasets = {split: loader['dataset'] for split, loader in target.items()}
    return dict(source=source, target=read_datasets(datasets, cfg, f'{given}, target'))


def _read_folder(folder: Path, given: str, every_file: bool) -> DomainImages:
    roots, notes = _roots(folder)
    taken, others = ByExtension(), []
    items, classes = [], set()
    for root, split in roots:
        for child in _children(root):
            # A folder called x.jpg is a mistake and not a class.
            if child.is_dir() and not is_image_name(child.name):
                classes.add(child.name)
                found, label = _files(child.path), child.name
            else:
                found, label = [child], None
            for entry in found:
                items.append(ImageItem(entry.path, label, split))
                if not (entry.is_file() and taken(entry.path[len(str(folder)) :].lstrip(os.sep))):
                    others.append(entry.path)
    unlisted, left_out = frozenset(others), sum(taken.left_out.values())
    if left_out:
        notes.append(
            f'{given}: {left_out} files are left out of training by their extension: '
            f'{taken.describe(taken.left_out)}. Images are {", ".join(EXTENSIONS)}; convert or '
            'rename what is one.'
        )
    no_files = len(unlisted) - left_out
    if no_files:
        notes.append(f'{given}: {no_files} entries with names of images are no files.')
    if not every_file:
        items = [item for item in items if item.name not in unlisted]
    if not items:
        raise ValueError(
            f'there is no image in {folder.absolute()}'
            + (f'. {notes[-1]}' if unlisted else f', expected files of {", ".join(EXTENSIONS)}')
        )
    tables = sorted(path for path in others if path.lower().endswith(_TABLES))
    if tables and not any(item.label is not None for item in items):
        notes.append(f'{given}: no labels are read: if {tables[0]} has some, give that file.')
    # An empty folder is a class too, which the notes report.
    labelled = any(item.label is not None for item in items)
    return DomainImages(
        given,
        tuple(items),
        tuple(sorted(classes)) if labelled else (),
        notes=tuple(notes),
        unlisted=unlisted if every_file else frozenset(),
    )


def _roots(folder: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the folders that hold classes, each with its split, and notes."""
    notes = []
    hidden = sorted(e.name for e in os.scandir(folder) if e.is_dir() and is_system_name(e.name))
    if hidden:
        notes.append(f'{folder}: {", ".join(hidden)}: hidden or system folders are no classes.')
    parts = [child for child in _children(folder) if child.is_dir()]
    splits = {child.name: split_name(child.name) for child in parts}
    known = {split for split in splits.values() if split}
    some_are = TRAIN in known and len(known) > 1  # a class may be called train, or test
    if not (some_are or (parts and all(splits.values()))):
        return [(str(folder), '')], notes
    others = [child.name for child in _children(folder) if not splits.get(child.name)]
    others = [name for name in others if name in splits or is_image_name(name)]
    if others:
        notes.append(
            f'{folder} has the splits {", ".join(sorted(known))}; left out is what lies beside '
            f'them: {", ".join(others)}.'
        )
    return [(child.path, splits[child.name]) for child in parts if splits[child.name]], notes


def _files(folder: str) -> Iterator[os.DirEntry]:
    for child in _children(folder):
        if child.is_dir(follow_symlinks=False):
            yield from _files(child.path)
        else:
            yield child


def _children(folder: str | Path) -> list[os.DirEntry]:
    entries = [entry for entry in os.scandir(folder) if not is_system_name(entry.name)]
    return sorted(entries, key=lambda entry: entry.name)


def read_datasets(datasets: dict[str, dict], cfg: Config, given: str) -> DomainImages:
    """List the images of data sets, opened where they are wrapped.

    Args:
        datasets: Split -> config of its data set.
        cfg: The config that they are of, whose default scope they are built in.
        given: Its name, for messages.

    Raises:
        ValueError: If a data set can't be read, or its images have several classes.
    """
    items, classes, parts, sizes, notes = [], (), {}, {}, []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        for split, config in datasets.items():
            config = Config(config)._cfg_dict
            try:
                dataset = build_named_dataset(config)
            except ValueError as error:
                raise ValueError(f'{given}: {error}') from error
            names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
            classes = classes or tuple(map(str, names))
            for number, (part, inner) in enumerate(unwrapped(config.to_dict(), dataset)):
                place = f'{split}/{number}' if number else split
                parts[place], sizes[place] = part, len(inner)
                items += _from_dataset(inner, split, place, given)
            if wrapped(config):
                notes.append(
                    f'{given}: {type_name(config)} of {split or "the images"} is opened: each '
                    'image of the data sets inside is taken once.'
                )
    labels = {item.label for item in items if item.label is not None}
    # Without labels the names are those of another domain, inherited.
    classes = (classes or tuple(sorted(labels))) if labels else ()
    return DomainImages(given, tuple(items), classes, parts, sizes, tuple(notes))


def _dataset_configs(cfg: Config, given: str) -> dict[str, dict]:
    found = {}
    for split in SPLITS:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        # mmpretrain's base configs test on what they validate on: one split, not two.
        if dataset and dataset not in found.values():
            found[split] = dataset.to_dict()
    if not found and cfg.get('dataset'):
        found[''] = cfg.dataset.to_dict()
    if not found:
        raise ValueError(
            f'{given} names no data: expected train_dataloader, val_dataloader or test_dataloader '
            'with a dataset, or dataset = dict(type=...)'
        )
    return found


def _from_dataset(dataset: Any, split: str, place: str, given: str) -> Iterator[ImageItem]:
    if not hasattr(dataset, 'get_data_info'):
        raise ValueError(
            f'{given}: {type(dataset).__name__} is no BaseDataset of mmengine, whose '
            'get_data_info() returns image and label: give a data set that is one, or a folder or '
            'an annotation file'
        )
    names = (dataset.metainfo or {}).get('classes')
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        label = info.get('gt_label')
        if label is not None:
            label = _one_class(label, names, f'{given}: image {index} of {split or "its data"}')
        pixels = info.get('img')
        name = str(info['img_path']) if pixels is None else f'{place or "all"}/{index}'
        pixels = None if pixels is None else np.asarray(pixels, dtype=np.uint8)
        yield ImageItem(name, label, split, pixels, place=(place, index))


def _one_class(label: Any, names: Sequence[str] | None, where: str) -> str | None:
    numbers = np.asarray(label).reshape(-1)
    if len(numbers) != 1:
        raise ValueError(
            f'{where} has {len(numbers)} labels, {label!r}: source and target are compared by the '
            'one class of each image'
        )
    number = int(numbers[0])
    if number < 0:
        return None
    if names and number >= len(names):
        raise ValueError(
            f'{where} has the label {number}, but its data set names {len(names)} classes, 0 to '
            f'{len(names) - 1}'
        )
    return str(names[number] if names else number)
