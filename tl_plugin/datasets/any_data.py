"""Reads whatever a person has: class folders, annotation files, mmpretrain configs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tl_plugin.datasets.annotation_files import read_annotations, split_name
from tl_plugin.datasets.images import SPLITS, DomainImages, ImageItem

# What systems leave in folders of their own accord.
_LEFT_BEHIND = {'thumbs.db', 'desktop.ini', 'icon\r'}
_TABLES = ('.csv', '.tsv', '.json', '.jsonl')


def read_data(given: str | Path) -> DomainImages:
    """List a domain's images, with labels and splits where the data have them.

    Args:
        given: One of

            - a folder: ``CLASS/...`` (sub-folders are classes), ``{train,val,test}/CLASS/...``, or
              images without classes. Every file counts, whatever its name: those that aren't
              images are for the reader to find;
            - an annotation file, ``.csv``, ``.tsv``, ``.json`` or ``.jsonl``, see
              :func:`tl_plugin.datasets.annotation_files.read_annotations`;
            - an mmpretrain config, ``.py`` or ``package::path``: the data sets of its three
              loaders, or its ``dataset`` alone.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it holds no images, or isn't one of these.
    """
    path = Path(given)
    if '::' in str(given) or path.suffix == '.py':
        return _from_config(str(given))
    if not path.exists():
        raise FileNotFoundError(
            f'found no data at {path.absolute()}: expected a folder of images, an annotation file '
            f'({", ".join(_TABLES)}) or an mmpretrain config (.py)'
        )
    if path.is_dir():
        items = tuple(_from_folder(path))
    elif path.suffix.lower() in _TABLES:
        items = tuple(read_annotations(path))
    else:
        raise ValueError(
            f'{path} is neither a folder nor one of {", ".join(_TABLES)}, .py: expected class '
            'folders, an annotation file or an mmpretrain config'
        )
    if not items:
        raise ValueError(f'there is no file in {path.absolute()}')
    return DomainImages(str(given), items, _classes(items, path))


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
    from tl_plugin.launch import load_config

    cfg = load_config(given)
    loops = {split: cfg.get(f'{split}_cfg') or {} for split in SPLITS}
    unlabelled = (cfg.get('ladder') or {}).get('target_dataloader')
    loaders = {
        split: (loop.get('dataloaders') or {}).get('target') for split, loop in loops.items()
    }
    loaders['train'] = unlabelled or loops['train'].get('target_dataloader')
    target = {
        split: inherit_dataloader(cfg[f'{split}_dataloader'], loader, f'target of {split}_cfg')
        for split, loader in loaders.items()
        if loader
    }
    if not target:
        raise ValueError(
            f'{given} names no target: expected ladder.target_dataloader, '
            'train_cfg.target_dataloader, or a domain target in val_cfg or test_cfg; or give '
            '--source and --target'
        )
    source = _from_datasets(_dataset_configs(cfg, str(given)), cfg, str(given))
    datasets = {split: loader['dataset'] for split, loader in target.items()}
    return dict(source=source, target=_from_datasets(datasets, cfg, f'{given}, target'))


def _from_folder(folder: Path) -> Iterator[ImageItem]:
    parts = [child for child in _children(folder) if child.is_dir()]
    splits = [split_name(child.name) for child in parts]
    if parts and all(splits):
        for child, split in zip(parts, splits):
            yield from _from_split(child, split)
    else:
        yield from _from_split(folder, '')


def _from_split(folder: Path, split: str) -> Iterator[ImageItem]:
    for child in _children(folder):
        # A folder called x.jpg is a mistake and not a class.
        if child.is_dir() and child.suffix.lower() not in ('.jpg', '.jpeg', '.png'):
            for path in _files(child):
                yield ImageItem(str(path), child.name, split)
        else:
            yield ImageItem(str(child), None, split)


def _files(folder: Path) -> Iterator[Path]:
    for child in _children(folder):
        if child.is_dir() and not child.is_symlink():
            yield from _files(child)
        else:
            yield child


def _children(folder: Path) -> list[Path]:
    names = sorted(os.listdir(folder))
    return [
        folder / name
        for name in names
        if not name.startswith('.') and name.lower() not in _LEFT_BEHIND
    ]


def _classes(items: tuple[ImageItem, ...], path: Path) -> tuple[str, ...]:
    names = {item.label for item in items if item.label is not None}
    if path.is_dir():
        # An empty folder is a class too, one to be told about.
        roots = [path] + [child for child in _children(path) if child.is_dir()]
        is_split = [bool(split_name(root.name)) for root in roots[1:]]
        for root in roots[1:] if is_split and all(is_split) else roots[:1]:
            names |= {child.name for child in _children(root) if child.is_dir()} if names else set()
    return tuple(sorted(names))


def _from_config(given: str) -> DomainImages:
    from tl_plugin.launch import load_config

    cfg = load_config(given)
    return _from_datasets(_dataset_configs(cfg, given), cfg, given)


def _from_datasets(datasets: dict[str, dict], cfg: Config, given: str) -> DomainImages:
    from mmpretrain.registry import DATASETS

    items: list[ImageItem] = []
    classes: tuple[str, ...] = ()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        for split, config in datasets.items():
            dataset = DATASETS.build(Config(config)._cfg_dict)
            names = (dataset.metainfo or {}).get('classes') or ()
            classes = classes or tuple(map(str, names))
            items += _from_dataset(dataset, split, given)
    numbers = {item.label for item in items if item.label is not None}
    return DomainImages(given, tuple(items), classes or tuple(sorted(numbers)), datasets)


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


def _from_dataset(dataset, split: str, given: str) -> Iterator[ImageItem]:
    if not hasattr(dataset, 'get_data_info'):
        raise ValueError(
            f'{given}: {type(dataset).__name__} is a wrapper of data sets or no mmengine '
            'BaseDataset; give the config of the data set inside'
        )
    names = (dataset.metainfo or {}).get('classes')
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        label = info.get('gt_label')
        if label is not None:
            number = int(np.asarray(label).reshape(-1)[0])
            label = None if number < 0 else str(names[number] if names else number)
        if info.get('img') is not None:
            pixels = np.asarray(info['img'], dtype=np.uint8)
            name = f'{split or "all"}/{index}'
            yield ImageItem(name, label, split, pixels, place=(split, index))
        else:
            yield ImageItem(str(info['img_path']), label, split, place=(split, index))
