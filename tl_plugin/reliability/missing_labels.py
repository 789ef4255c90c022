"""Refuse images without labels where they are to be measured by labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.logging import print_log

from tl_plugin.datasets.wrappers import image_infos

#: What measures the labelled images alone.
_LABELLED_ONLY = "dict(type='LabelledOnly', metric=dict(type='Accuracy'))"


def needs_labels(metric: type) -> bool:
    """Return whether a class of metrics needs labels: all of mmpretrain do, others may not."""
    return getattr(metric, '__module__', '').startswith('mmpretrain.')


def check_labels_known(loader: str, dataset: Any, metrics: Iterable[Any], evaluator: str) -> None:
    """Refuse a data set that is evaluated by labels and has none on some or all of its images.

    mmpretrain's preprocessor ends in an ``AttributeError`` at a batch of which some images have
    labels, and its metrics in a ``KeyError`` without any. Images of the class -1 pass both, and
    count as mistakes: the log says how many.

    Args:
        loader: The config key of its loader.
        dataset: The data set; one that doesn't describe its images passes.
        metrics: That are computed on it.
        evaluator: The config key of these.

    Raises:
        ValueError: If labels are missing; says how many, of which image, and what works.
    """
    try:
        infos = [(info.get('gt_label'), info.get('img_path')) for info in image_infos(dataset)]
    except (TypeError, KeyError):
        return
    missing = [path for label, path in infos if label is None]
    names = sorted({type(one).__name__ for one in metrics if needs_labels(type(one))})
    if missing and len(missing) < len(infos):
        raise ValueError(
            f'{loader}: {len(missing)} of its {len(infos)} images have no label, '
            f'{missing[0] or "the first of them in memory"} for example, and mmpretrain makes no '
            'batch of images with and without. Label them, leave them out of its list, or give '
            f'them the class -1 and measure the others alone: {evaluator}={_LABELLED_ONLY}'
        )
    if missing and names:
        raise ValueError(
            f'{loader}: none of its {len(infos)} images has a label, and {", ".join(names)} needs '
            f"labels. Give it labelled images, or measure without: {evaluator}=dict(type='"
            "TargetValidator')"
        )
    known = [np.asarray(label) for label, _ in infos if label is not None]
    unknown = sum(label.size == 1 and int(label.flat[0]) < 0 for label in known)
    if unknown and names:
        print_log(
            f'{unknown} of the {len(infos)} images of {loader} have the class -1, and '
            f'{", ".join(names)} counts each of them as a mistake: {evaluator}={_LABELLED_ONLY} '
            'measures the others alone.',
            logger='current',
            level=logging.WARNING,
        )
