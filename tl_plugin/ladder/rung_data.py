"""Which images a rung learns from and is measured on, as hashes: another list is another run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.datasets.wrappers import image_infos, inner_configs
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.messages import quiet

#: Options of a data set that name files. Without one the config says all that there is to know.
_PLACES = ('ann_file', 'data_root', 'data_prefix')
#: Files whose sizes are asked for, at most: on network drives that takes time.
MOST_SIZES = 10_000
#: So many values of an image in memory are hashed.
_PIXELS = 4096


def data_hashes(ready: Config, known: dict[str, str] | None = None) -> dict[str, str]:
    """Hash the lists of images that a ready config names.

    A list is the names, labels and sizes of its images, so that a moved folder of results, or a
    fresh copy of the images under the same paths, is the same data.

    Args:
        ready: From :func:`~tl_plugin.ladder.ready_config.ready_config`.
        known: Hashes of data sets that were built for other rungs; it gets those that are built
            here. Defaults to None.

    Returns:
        Where the config names the data set -> hash. Data sets that name no file are left out, and
        so are those that can't be read: the run itself says what is wrong with them.
    """
    known, found = {} if known is None else known, {}
    with quiet([MMLogger.get_current_instance()]):  # what is inherited is told when a run starts
        datasets = list(_datasets(ready))
    for where, config in datasets:
        if any(inner.get(place) for inner in inner_configs(config) for place in _PLACES):
            key = fingerprint(config)
            if key not in known:
                known[key] = _hash_of(config, ready.get('default_scope') or 'mmpretrain')
            if known[key]:
                found[where] = known[key]
    return found


def changed_data(before: dict[str, str] | None, now: dict[str, str]) -> list[str]:
    """Return the data sets whose images are others than at an earlier run."""
    return [where for where, value in now.items() if (before or {}).get(where, value) != value]


def _datasets(ready: Config) -> Iterator[tuple[str, dict]]:
    """Yield the data sets of a config that can be made out, each with its place."""
    loops = {split: ready.get(f'{split}_cfg') or {} for split in ('train', 'val', 'test')}
    inherited = {'train_cfg.target_dataloader': ('train', loops['train'].get('target_dataloader'))}
    for number, hook in enumerate(ready.get('custom_hooks') or []):
        where = f'custom_hooks.{number}.target_dataloader'
        inherited[where] = 'train', hook.get('target_dataloader')
    for split, loop in loops.items():
        loader = ready.get(f'{split}_dataloader') or {}
        if loader.get('dataset'):
            yield f'{split}_dataloader', loader['dataset']
        for name, own in (loop.get('dataloaders') or {}).items():
            inherited[f'{split}_cfg.dataloaders.{name}'] = split, own
    for where, (split, own) in inherited.items():
        base = ready.get(f'{split}_dataloader')
        if own and base:
            try:
                yield (
                    where,
                    inherit_dataloader(base, own, where, labelled=split != 'train')['dataset'],
                )
            except (TypeError, ValueError):
                continue  # the run itself says what is wrong


def _hash_of(config: dict, scope: str) -> str:
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return images_hash(build_named_dataset(config))
    except Exception:  # whatever a data set raises that can't be read
        return ''


def images_hash(dataset: Any) -> str:
    """Hash names, labels and sizes of a data set's images; of images in memory some pixels.

    Args:
        dataset: A built data set, perhaps one that wraps others.

    Raises:
        TypeError: If it doesn't describe its images.
    """
    digest, paths = hashlib.blake2b(digest_size=8), []
    for info in image_infos(dataset):
        if info.get('img_path') is not None:
            paths.append(str(info['img_path']))
            digest.update(os.fsencode(paths[-1]))
        else:
            pixels = np.asarray(info['img']).reshape(-1)
            digest.update(pixels[:: max(pixels.size // _PIXELS, 1)].tobytes())
        label = info.get('gt_label')
        digest.update(f'|{"" if label is None else np.asarray(label).tolist()}\n'.encode())
    for path in paths[:: -(-len(paths) // MOST_SIZES) or 1]:
        digest.update(f'{_size(path)}\n'.encode())
    return digest.hexdigest()


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # not there, or not local
        return None
