"""Looks at the data of a ladder before any rung trains."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import DefaultScope

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.reliability.data_identity import check_source_and_target


def check_ladder_data(cfg: Config) -> None:
    """Refuse target images that are the source's.

    Args:
        cfg: The config that the ladder stands on, with ``ladder.target_dataloader`` and
            ``ladder.labelled_target_dataloader`` where there are such images.

    Raises:
        ValueError: If one of them is the source, or a data set can't be read.
    """
    base = cfg.get('train_dataloader')
    loaders = {
        key: loader
        for key in ('target_dataloader', 'labelled_target_dataloader')
        if (loader := (cfg.get('ladder') or {}).get(key))
    }
    if not base or not loaders:
        return
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        source = build_named_dataset(base.dataset)
        for key, loader in loaders.items():
            where, labelled = f'ladder.{key}', key.startswith('labelled')
            loader = inherit_dataloader(base, loader, where, labelled)
            check_source_and_target(source, build_named_dataset(loader['dataset']), where)
