"""Adapt a classifier to the images that it is about to predict, where that needs no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.config import Config
from mmengine.dist import get_dist_info
from torch import Tensor

from tl_plugin.engine.batch_statistics import estimate_batch_statistics
from tl_plugin.stack.options import type_name

from .classifier import Classifier
from .loading import image_loader

if TYPE_CHECKING:
    from .image_list import ImageList

#: Hooks that adapt a model before a test -> the strategy that adds them.
ADAPTING = {'AdaBNHook': 'adabn'}


def strategy_notes(cfg: Config, strategy: Sequence[str]) -> list[str]:
    """Say which strategies change nothing before a prediction, in sentences.

    Args:
        cfg: With the strategies merged over it.
        strategy: Their names.
    """
    idle = [name for name in strategy if Path(name).stem not in ADAPTING.values()]
    if not idle or (_hook(cfg) is not None and len(idle) < len(strategy)):
        return []
    return [
        f'--strategy {" ".join(idle)} adapts by training and changed at most the structure of the '
        f'model here: before a prediction only {", ".join(ADAPTING.values())} adapts. Train with '
        'tools/train.py and predict with the checkpoint of that run.'
    ]


def adapt_to(
    classifier: Classifier,
    names: ImageList,
    batch_size: int,
    workers: int,
    seed: int = 0,
) -> str:
    """Adapt a classifier as the strategies in its config do before a test.

    All processes together look at each image once at most, in random order: a batch of one folder
    after the other would have statistics of its own.

    Args:
        classifier: Its model is changed.
        names: The images that will be predicted.
        batch_size: Images at a time.
        workers: Processes that read images.
        seed: Of the order. Defaults to 0.

    Returns:
        What was done, in a sentence; '' where no strategy adapts.

    Raises:
        ValueError: If the model has no batch norm, or no image could be read.
    """
    hook = _hook(classifier.cfg)
    if hook is None:
        return ''
    rank, world = get_dist_info()
    order = np.random.default_rng(seed).permutation(len(names))[rank::world].tolist()
    loader = image_loader(names, classifier.pipeline(), order, batch_size, workers)
    seen = 0

    def batches() -> Iterator[Tensor]:
        nonlocal seen
        for batch in islice(loader, hook.get('max_batches')):
            if batch.inputs is not None and len(batch.inputs) > 1:
                seen += len(batch.inputs)
                yield batch.inputs

    count = estimate_batch_statistics(classifier.model, batches(), classifier)
    return (
        f'AdaBN: {count} batch norms have the statistics of '
        f'{seen if world == 1 else f"{seen} a process"} of these images.'
    )


def _hook(cfg: Config) -> dict | None:
    hooks = cfg.get('custom_hooks') or []
    return next((hook for hook in hooks if type_name(hook) in ADAPTING), None)
