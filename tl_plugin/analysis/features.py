"""A model's features of some images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.registry import DATASETS, MODELS

from tl_plugin.reliability.start import tell_of_start

#: Activations of larger batches outgrow what the allocator keeps: on a CPU the system then spends
#: longer on handing out memory than the model computes.
CPU_BATCH, GPU_BATCH = 8, 64


def build_model(cfg: Config) -> torch.nn.Module:
    """Build a config's model with its weights, ready to predict; the config isn't changed."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        model = cfg.model.to_dict()
        # A copy, because classifiers write defaults into it.
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.get('data_preprocessor')))
        built = MODELS.build(model)
    tell_of_start(built, cfg.get('load_from'))
    # mmengine logs each single weight that it initialises.
    with _quiet():
        built.init_weights()
    if cfg.get('load_from'):
        load_checkpoint(built, cfg.load_from, map_location='cpu')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return built.eval().to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [*MMLogger._instance_dict.values(), logging.getLogger()]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)


@torch.inference_mode()
def extract_features(
    model: torch.nn.Module,
    dataset: dict,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Compute what a model's last layer is given.

    Args:
        model: A classifier of mmpretrain, with a head that has ``pre_logits``.
        dataset: Config of the images' data set.
        batch_size: Images at a time. None: :data:`CPU_BATCH` on a CPU, :data:`GPU_BATCH` on a GPU.
        advance: Called with the number of images that were finished since the last call.

    Returns:
        ``(N, D)``, float32, in the data set's order.
    """
    from mmengine.dataset import pseudo_collate

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        images = DATASETS.build(Config(dataset)._cfg_dict)
    on_cpu = next(model.parameters()).device.type == 'cpu'
    batch_size = batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)
    rows = []
    for start in range(0, len(images), batch_size):
        batch = [images[i] for i in range(start, min(start + batch_size, len(images)))]
        inputs = model.data_preprocessor(pseudo_collate(batch), training=False)['inputs']
        features = model.head.pre_logits(model.extract_feat(inputs))
        rows.append(features.flatten(1).float().cpu().numpy())
        advance(len(batch))
    return np.concatenate(rows)
