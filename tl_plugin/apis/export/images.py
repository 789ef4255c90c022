"""Images of both domains, before and after the pipeline of a test."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS
from torch import Tensor

from tl_plugin.datasets.wrappers import inner_configs, locate
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.stack.protocol import SOURCE, TARGET


class Shown(NamedTuple):
    """One image.

    Attributes:
        pixels: As decoded, (H, W, C), uint8; RGB where C is 3.
        inputs: What the pipeline makes of it, (C, height, width).
        label: True class, None where it has none.
    """

    pixels: np.ndarray
    inputs: Tensor
    label: int | None


def test_loaders(cfg: Config) -> dict[str, dict]:
    """Return the loader configs of the domains that a config tests on, or validates.

    Args:
        cfg: A config.

    Raises:
        ValueError: If it does neither.
    """
    for stage in ('test', 'val'):
        base = cfg.get(f'{stage}_dataloader')
        if base:
            found = {SOURCE: copy.deepcopy(base)}
            others = (cfg.get(f'{stage}_cfg') or {}).get('dataloaders') or {}
            for name, loader in others.items():
                key = f'{stage}_cfg.dataloaders.{name}'
                found[name] = inherit_dataloader(base, loader, key, labelled=True)
            return found
    raise ValueError(
        'the config has neither test_dataloader nor val_dataloader, whose images an exported file '
        'is checked on: use the config of the run, or name folders of images (--images)'
    )


def test_pipeline(cfg: Config) -> list[dict]:
    """Return the pipeline of test images."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return list(inner_configs(loader.get('dataset'))[0].get('pipeline') or [])


def calibration_loader(cfg: Config) -> dict:
    """Return the loader config of target images that training may see, without their labels.

    Args:
        cfg: A config.

    Raises:
        ValueError: If it names none.
    """
    places = (
        ('train_cfg.target_dataloader', (cfg.get('train_cfg') or {}).get('target_dataloader')),
        ('ladder.target_dataloader', (cfg.get('ladder') or {}).get('target_dataloader')),
        (
            'val_cfg.dataloaders.target',
            ((cfg.get('val_cfg') or {}).get('dataloaders') or {}).get(TARGET),
        ),
    )
    for key, loader in places:
        if loader:
            base = cfg.get('val_dataloader') if key.startswith('val') else cfg.train_dataloader
            found = inherit_dataloader(base, loader, key, labelled=key.startswith('val'))
            for inner in inner_configs(found['dataset']):
                inner['pipeline'] = test_pipeline(cfg)
            return found
    raise ValueError(
        'int8 takes its ranges from target images, and this config names none: '
        f'{" or ".join(key for key, _ in places)}'
    )


def folder_loaders(folders: Sequence[str], pipeline: list[dict]) -> dict[str, dict]:
    """Return loader configs of folders of images: of source and target, or of the target.

    Args:
        folders: One or two.
        pipeline: Of test images.
    """
    names = (SOURCE, TARGET)[-len(folders) :] if len(folders) <= 2 else folders
    return {
        name: dict(
            dataset=dict(
                type='CustomDataset',
                data_root=str(folder),
                with_label=False,
                pipeline=copy.deepcopy(pipeline),
            )
        )
        for name, folder in zip(names, folders)
    }


def build_dataset(loader: dict) -> Any:
    """Build the data set of a loader config."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(copy.deepcopy(loader['dataset']))


def shown_images(dataset: Any, count: int | None = None, to_rgb: bool = True) -> Iterator[Shown]:
    """Yield images evenly spread over a data set.

    Args:
        dataset: A built data set, perhaps one that wraps others.
        count: Number of images at most. Defaults to None, all.
        to_rgb: Of the data preprocessor: images that a data set holds in memory are BGR if they are
            turned, and RGB if they aren't, as those of mmpretrain's CIFAR10 are. Defaults to True.
    """
    total = len(dataset)
    places = range(total)
    if count is not None and count < total:
        places = np.linspace(0, total - 1, count).round().astype(int).tolist()
    for place in places:
        packed = dataset[place]
        sample = packed['data_samples']
        label = sample.get('gt_label')
        yield Shown(
            _pixels(dataset, place, to_rgb),
            packed['inputs'],
            int(label) if label is not None and label.numel() == 1 and int(label) >= 0 else None,
        )


def _pixels(dataset: Any, place: int, to_rgb: bool) -> np.ndarray:
    inner, index = locate(dataset, place)
    info = inner.get_data_info(index)
    image, bgr = info.get('img'), to_rgb
    if image is None:
        bgr = True
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            image = inner.pipeline.transforms[0](dict(info))['img']
    image = np.atleast_3d(np.asarray(image))
    return np.ascontiguousarray(image[..., ::-1] if bgr and image.shape[2] == 3 else image)
