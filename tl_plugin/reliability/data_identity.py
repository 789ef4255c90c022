"""Compare data sets by the images that they hold, and refuse one domain under two names."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log

from tl_plugin.datasets.bad_data import describe_data
from tl_plugin.datasets.wrappers import image_infos, inner_datasets, wrapped
from tl_plugin.stack.options import type_name

from .fingerprint import fingerprint

# Up to so many files, each is checked for being a link; of more, a sample of this many.
_FEW_FILES, _SAMPLE = 10_000, 64
# This many values of an image in memory are hashed.
_PIXELS = 4096


@dataclass(frozen=True)
class Overlap:
    """Numbers of images of two data sets, and of those in both; false where both share none.

    Args:
        shared: How many images both hold.
        one: How many the first holds, each counted once.
        other: How many the second holds.
    """

    shared: int
    one: int
    other: int

    def __bool__(self) -> bool:
        return self.shared > 0

    def __str__(self) -> str:
        return f'{self.shared:,} of {self.other:,} images'


def shared_images(one: Any, other: Any) -> Overlap | None:
    """Count the images that two data sets share, whatever wraps them.

    Files are the same where their real paths are, images in memory where their pixels are. It costs
    a few seconds for a million images.

    Args:
        one: A data set.
        other: Another one.

    Returns:
        The counts; None where a data set doesn't describe its images.
    """
    keys = [_image_keys(dataset) for dataset in (one, other)]
    if keys[0] is None or keys[1] is None:
        return None
    shared = np.intersect1d(*keys, assume_unique=True)
    return Overlap(len(shared), len(keys[0]), len(keys[1]))


def check_source_and_target(source: Any, target: Any, key: str) -> None:
    """Refuse a target whose images are the source's.

    A target is refused if at least half of its images are the source's. Only the first data set of
    a :class:`SeveralSources` is the source domain: the others may be labelled target images. Fewer
    shared images, or such labelled ones, are counted in the log.

    Args:
        source: The source's data set.
        target: The target's.
        key: Where the target's loader is set, for messages: 'train_cfg.target_dataloader'.

    Raises:
        ValueError: If the target is the source; says how many images are shared, and the fix.
    """
    domain, labelled = _source_domain(source)
    overlap = shared_images(domain, target)
    if overlap:
        if 2 * overlap.shared >= overlap.other or _ignored(domain, target):
            raise ValueError(_refusal('the source', domain, 'the target', target, overlap, key))
        _warn(
            f'{overlap} of the target ({describe_data(target)}) are images of the source as well '
            f'({describe_data(domain)}): expected images of the target alone in {key}'
        )
    for dataset in labelled:
        overlap = shared_images(dataset, target)
        if overlap:
            all_of_them = overlap.shared == overlap.other
            print_log(
                f'{overlap} of the target are also among the labelled images of '
                f'{describe_data(dataset)}, a data set beside the source.',
                logger='current',
                level=logging.WARNING if all_of_them else logging.INFO,
            )


def check_evaluated(one: str, dataset: Any, other: str, another: Any, key: str) -> None:
    """Refuse two evaluated domains that are the same images through the same pipeline.

    The same images through two pipelines, one of them with a corruption say, are two domains. Where
    domains share some of their images the log says so.

    Args:
        one: The first domain's name.
        dataset: Its data set.
        other: The second one's.
        another: Its data set.
        key: Where the second one's loader is set, for messages.

    Raises:
        ValueError: If they are the same; says the number of images and the fix.
    """
    overlap = shared_images(dataset, another)
    if not overlap:
        return
    same = overlap.shared == overlap.one == overlap.other
    if _ignored(dataset, another) or (same and _pipelines(dataset) == _pipelines(another)):
        raise ValueError(_refusal(one, dataset, other, another, overlap, key))
    how = ', through another pipeline' if same else ''
    _warn(f"{overlap} of the domain '{other}' are images of '{one}' as well{how}")


def check_inherited(base: str, dataset: Any, target: Any, key: str) -> None:
    """Refuse target images that stay those of the loader which they inherit from.

    Args:
        base: What that loader is called.
        dataset: Its data set; these may be the target's, too.
        target: The target's data set.
        key: Where the target's loader is set, for messages.

    Raises:
        ValueError: If the target's own ``data_root`` has no effect.
    """
    overlap = _ignored(dataset, target) and shared_images(dataset, target)
    if overlap:
        raise ValueError(_refusal(base, dataset, 'the target', target, overlap, key))


def check_trained(trained: Any, name: str, dataset: Any) -> None:
    """Warn in the log of evaluated images that are training images.

    Args:
        trained: The labelled training data.
        name: What the other images are called: 'val_dataloader'.
        dataset: Their data set.
    """
    overlap = shared_images(trained, dataset)
    if overlap:
        _warn(
            f'{overlap} of {name} are training images: what is measured on them says little about '
            'others'
        )


def check_source_free(target: Any, source: Any) -> None:
    """Refuse a validation whose source domain is the target that is trained on.

    Args:
        target: The training data of a run without source images.
        source: The data of the validation's domain ``source``.

    Raises:
        ValueError: If it is so.
    """
    overlap = shared_images(target, source)
    if overlap and overlap.shared == overlap.other:
        raise ValueError(
            f'train_dataloader is the target here, and the validation calls {overlap} of it the '
            f"domain 'source': {describe_data(source)}. Point val_dataloader to source images, and "
            'val_cfg.dataloaders.target to those of the target'
        )


def check_root(dataset: Any, key: str) -> None:
    """Refuse a data set whose ``data_root`` has no effect, where no other tells them apart.

    Args:
        dataset: The data set.
        key: Where its loader is set, for messages.

    Raises:
        ValueError: If images are read from an absolute path outside of ``data_root``.
    """
    for inner in inner_datasets(dataset):
        root, prefix = getattr(inner, 'data_root', None), _prefix(inner)
        if root and prefix and '://' not in prefix:
            place, root_place = os.path.realpath(prefix), os.path.realpath(root)
            if os.path.commonpath([place, root_place]) != root_place:
                raise ValueError(
                    f'{key}.dataset.data_root={root!r} has no effect, because its data_prefix is '
                    f'the absolute path {prefix!r}: set {key}.dataset.data_prefix, too, '
                    "data_prefix='' for the folder data_root itself"
                )


def _source_domain(dataset: Any) -> tuple[Any, list[Any]]:
    """Return the data set of the source domain, and those that may be labelled target images."""
    # By its name, as the class lies in a room above.
    inside = dataset
    while type_name(inside) != 'SeveralSources':
        if len(wrapped(inside)) != 1:
            return dataset, []
        (inside,) = wrapped(inside)
    return inside.datasets[0], list(inside.datasets[1:])


def _image_keys(dataset: Any) -> np.ndarray | None:
    """Return one number per image, sorted, each once."""
    try:
        keys = np.fromiter(_hashes(image_infos(dataset)), dtype=np.int64)
    except (TypeError, KeyError):
        return None  # a data set that doesn't describe its images
    return np.unique(keys)


def _hashes(infos: Iterable[dict]) -> Iterator[int]:
    paths = []
    for info in infos:
        if info.get('img_path') is not None:
            paths.append(str(info['img_path']))
        else:
            pixels = np.asarray(info['img'])
            step = max(pixels.size // _PIXELS, 1)
            yield hash((pixels.shape, pixels.reshape(-1)[::step].tobytes()))
    yield from map(hash, _real_paths(paths))


def _real_paths(paths: list[str]) -> Iterator[str]:
    """Resolve each folder once, and each file only where there are few or links among them."""
    checked = paths if len(paths) <= _FEW_FILES else paths[:: len(paths) // _SAMPLE]
    links = any(map(os.path.islink, checked))
    folders: dict[str, str] = {}
    for path in paths:
        if '://' in path:
            yield path
        elif links:
            yield os.path.realpath(path)
        else:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            yield os.path.join(folders[folder], name)


def _ignored(base: Any, target: Any) -> list[str]:
    """Return which options of the base make the target's own ``data_root`` ineffective."""
    for one in inner_datasets(base):
        for other in inner_datasets(target):
            roots = [os.path.realpath(getattr(d, 'data_root', None) or '') for d in (one, other)]
            prefix = _prefix(other)
            if roots[0] != roots[1]:
                found = ['data_prefix'] if prefix and prefix == _prefix(one) else []
                found += ['ann_file'] if _same_list(one, other) else []
                if found:
                    return found
    return []


def _prefix(dataset: Any) -> str:
    prefix = getattr(dataset, 'data_prefix', None) or {}
    path = prefix.get('img_path', '') if isinstance(prefix, dict) else ''
    return str(path) if os.path.isabs(str(path)) or '://' in str(path) else ''


def _same_list(one: Any, other: Any) -> bool:
    lists = [str(getattr(dataset, 'ann_file', None) or '') for dataset in (one, other)]
    return lists[0] == lists[1] != '' and os.path.isabs(lists[0])


def _refusal(one: str, dataset: Any, other: str, another: Any, overlap: Overlap, key: str) -> str:
    options = _ignored(dataset, another)
    fix = f'Point {key}.dataset to images of the target'
    if options:
        named = ' and '.join(f'{key}.dataset.{option}' for option in options)
        fix = (
            f'The absolute {" and ".join(options)} that {other} inherits keeps data_root from '
            f'having an effect: set {named}, too'
        )
        if 'data_prefix' in options:
            fix += ", data_prefix='' for the folder data_root itself"
    return (
        f'{one} and {other} are the same images: {overlap} of {other}, {describe_data(another)}, '
        f'are images of {one}, {describe_data(dataset)}. {fix}'
    )


def _pipelines(dataset: Any) -> list[str]:
    return [fingerprint(getattr(inner, 'pipeline', None)) for inner in inner_datasets(dataset)]


def _warn(message: str) -> None:
    print_log(f'{message}.', logger='current', level=logging.WARNING)
