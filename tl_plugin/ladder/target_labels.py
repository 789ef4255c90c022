"""Which target images have labels, and metrics that go by it: known before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS, METRICS

from tl_plugin.datasets.bad_data import build_named_dataset
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.reliability.data_identity import check_source_and_target
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import TARGET

from .recommend import TARGET_SCORE

SPLITS = ('val', 'test')
#: Metrics that give no accuracy, whatever the labels.
NO_LABELS = ('LabelFreeScore', 'DumpResults')
SCORE_NAME = TARGET_SCORE.split('/')[-1]


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


@dataclass(frozen=True)
class Count:
    """How many images of a split have a label.

    Args:
        labelled: Those that have.
        images: All.
    """

    labelled: int
    images: int


@dataclass(frozen=True)
class TargetLabels:
    """Which images of the target have labels.

    Args:
        val: Of its validation images; None where it has none.
        test: Of its test images.
        accuracy: Whether a metric of the target's validation may take labels.
        score: Whether one of them gives the score that chooses without labels.
    """

    val: Count | None
    test: Count | None
    accuracy: bool = True
    score: bool = True

    def why_no_accuracy(self) -> str | None:
        """Why the target accuracy will not be known on validation images; None if it will."""
        if self.val is None:
            return 'the target is not validated (val_cfg has no domain target)'
        if not self.val.labelled:
            return f'none of its {self.val.images} target images has a label'
        if not self.accuracy:
            return 'val_cfg.evaluators.target has only metrics that take no labels'
        return None

    def why_no_choice(self) -> str | None:
        """Why nothing can be chosen by validation of the target; None if something can."""
        why = self.why_no_accuracy()
        if why is None or (self.val is not None and self.score):
            return None
        return f'{why}, and it has no score that takes none (a LabelFreeScore)' if self.val else why


def build_domain_dataset(cfg: Config, domain: str, split: str = 'test') -> Any:
    """Build the data set of one domain that a config tests or validates on.

    Args:
        cfg: The config.
        domain: 'source', or a domain of its ``DomainTestLoop`` or ``DomainValLoop``.
        split: 'test' or 'val'.
    """
    loader = cfg[f'{split}_dataloader']
    if domain != 'source':
        own, key = cfg[f'{split}_cfg'].dataloaders[domain], f'{split}_cfg.dataloaders.{domain}'
        loader = inherit_dataloader(loader, own, key, labelled=True)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        return DATASETS.build(loader['dataset'])


def count_target_labels(cfg: Config) -> TargetLabels:
    """Look which target images have labels, by building the data sets and asking them.

    Args:
        cfg: The config that the ladder stands on.
    """
    counts = {split: _count(cfg, split) for split in SPLITS}
    metrics = _metrics(cfg, 'val')
    return TargetLabels(
        **counts,
        accuracy=any(type_name(one) not in NO_LABELS for one in metrics),
        # Without labels, `measure_by_labels` puts a score in the place of what takes them.
        score=any(_chooses(one) for one in metrics) or all(map(_takes_labels, metrics)),
    )


def _count(cfg: Config, split: str) -> Count | None:
    if TARGET not in _domains(cfg, split):
        return None
    dataset = build_domain_dataset(cfg, TARGET, split)
    if not hasattr(dataset, 'get_data_info'):
        return Count(len(dataset), len(dataset))  # not mmengine's: nobody can ask it
    labels = (dataset.get_data_info(index).get('gt_label') for index in range(len(dataset)))
    return Count(sum(map(_is_label, labels)), len(dataset))


def _is_label(label: Any) -> bool:
    return label is not None and np.size(label) > 0 and bool((np.asarray(label) >= 0).all())


def not_validated(cfg: Config, labels: TargetLabels) -> dict[str, str]:
    """Domains whose validation images nothing can be chosen by -> why.

    Args:
        cfg: The config that the ladder stands on.
        labels: Of its target.
    """
    if not (cfg.get('val_dataloader') and cfg.get('val_evaluator')):
        none = 'the config has no validation (val_dataloader, val_cfg, val_evaluator)'
        return {'source': none, TARGET: none}
    why = labels.why_no_choice()
    return {TARGET: why} if why else {}


def notes_on_labels(labels: TargetLabels) -> list[str]:
    """Say in sentences for which target images there are no labels."""
    notes = []
    for name, count in (('validation', labels.val), ('test', labels.test)):
        if count is not None and count.labelled < count.images:
            known = 'is over these alone' if count.labelled else 'is not known there'
            notes.append(
                f'{count.labelled or "None"} of the {count.images} {name} images of the target '
                f'{"have" if count.labelled > 1 else "has"} a label: accuracy {known}.'
            )
    if labels.val is None:
        notes.append('The target is not validated, so no rung is recommended.')
    return notes


def measure_by_labels(cfg: Config, labels: TargetLabels) -> Config:
    """Give a config metrics that fit the labels that its target has.

    Without labels, metrics that take some are left out and a ``LabelFreeScore`` stands in for them;
    with labels on some images, they go by those images alone. A config whose target images all have
    labels stays as it is.

    Args:
        cfg: The config that the ladder stands on. It isn't changed.
        labels: Of its target.
    """
    changed = None
    for split in SPLITS:
        count: Count | None = getattr(labels, split)
        if count is None or count.labelled == count.images:
            continue
        metrics = _metrics(cfg, split)
        if count.labelled:
            fitting = [
                dict(type='LabelledOnly', metric=one) if _takes_labels(one) else one
                for one in metrics
            ]
        else:
            fitting = [one for one in metrics if not _takes_labels(one)]
            fitting = fitting or [dict(type='LabelFreeScore')]
        if fitting != metrics:
            changed = changed or copy.deepcopy(cfg)
            changed.merge_from_dict({f'{split}_cfg': {'evaluators': {TARGET: fitting}}})
    return changed or cfg


def _domains(cfg: Config, split: str) -> Mapping:
    return (cfg.get(f'{split}_cfg') or {}).get('dataloaders') or {}


def _metrics(cfg: Config, split: str) -> list:
    """The metrics of the target, in whichever form the config has them."""
    own = (cfg.get(f'{split}_cfg') or {}).get('evaluators') or {}
    found = own.get(TARGET, cfg.get(f'{split}_evaluator'))
    if isinstance(found, Evaluator):
        found = found.metrics
    if isinstance(found, Mapping) and 'metrics' in found:
        found = found['metrics']
    return list(found) if isinstance(found, (list, tuple)) else [found] if found else []


def _chooses(metric: Any) -> bool:
    """Whether a metric's config gives the score that chooses without labels."""
    if not isinstance(metric, Mapping) or type_name(metric) != 'LabelFreeScore':
        return False
    return not metric.get('prefix') and SCORE_NAME in metric.get('scores', [SCORE_NAME])


def _takes_labels(metric: Any) -> bool:
    """Whether a metric takes labels: all of mmpretrain do; one of the user's is theirs to know."""
    kind = metric.get('type') if isinstance(metric, Mapping) else type(metric)
    if isinstance(kind, str):
        kind = METRICS.get(kind)
    return getattr(kind, '__module__', '').startswith('mmpretrain.')
