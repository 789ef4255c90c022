"""Check the data of a ladder before training: which target images have labels, and for what."""

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
from tl_plugin.datasets.wrappers import image_infos
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.reliability.data_identity import check_source_and_target
from tl_plugin.reliability.missing_labels import check_labels_known, needs_labels
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import SOURCE, TARGET

from .recommend import TARGET_SCORE

SPLITS = ('val', 'test')
#: Metrics that never give an accuracy.
NO_LABELS = ('TargetValidator', 'DumpResults')
SCORE_NAME = TARGET_SCORE.split('/')[-1]


def check_ladder_data(cfg: Config) -> None:
    """Raise an error where target images are those of the source.

    Args:
        cfg: The base config of the ladder, with ``ladder.target_dataloader`` and
            ``ladder.labelled_target_dataloader`` where there are such images.

    Raises:
        ValueError: If a target data set is the source's, or a data set can't be read.
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
    """Number of images of a split.

    Args:
        labelled: Images that have a label.
        images: All images.
    """

    labelled: int
    images: int


@dataclass(frozen=True)
class TargetLabels:
    """Labels of the target images, and what its validation measures.

    Args:
        val: Validation images; None where the target isn't validated.
        test: Test images; None where the target isn't tested.
        accuracy: Whether a metric of the target's validation may use labels. Defaults to True.
        score: Whether one of them gives the score that rungs are chosen by without labels.
            Defaults to True.
    """

    val: Count | None
    test: Count | None
    accuracy: bool = True
    score: bool = True

    def why_no_accuracy(self) -> str | None:
        """Return why target accuracy on validation will be unknown; None if it will be known."""
        if self.val is None:
            return 'the target is not validated (val_cfg has no domain target)'
        if not self.val.labelled:
            return f'none of its {self.val.images} target images has a label'
        if not self.accuracy:
            return 'val_cfg.evaluators.target has only metrics that use no labels'
        return None

    def why_no_choice(self) -> str | None:
        """Return why no rung can be chosen by validation of the target; None if one can."""
        why = self.why_no_accuracy()
        if why is None or (self.val is not None and self.score):
            return None
        return (
            f'{why}, and it has no score that needs none (a TargetValidator)' if self.val else why
        )


def build_domain_dataset(cfg: Config, domain: str, split: str = 'test') -> Any:
    """Build the data set of a domain that a config tests or validates on.

    Args:
        cfg: The config.
        domain: ``'source'``, or a domain of its ``DomainTestLoop`` or ``DomainValLoop``.
        split: ``'test'`` or ``'val'``. Defaults to ``'test'``.
    """
    loader = cfg[f'{split}_dataloader']
    if domain != SOURCE:
        own, key = cfg[f'{split}_cfg'].dataloaders[domain], f'{split}_cfg.dataloaders.{domain}'
        loader = inherit_dataloader(loader, own, key, labelled=True)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        return DATASETS.build(loader['dataset'])


def measured_domains(cfg: Config) -> tuple[str, ...]:
    """Return the domains that a ladder measures: without source images the target alone.

    Args:
        cfg: The base config of the ladder.
    """
    return (TARGET,) if (cfg.get('ladder') or {}).get('source_free') else (SOURCE, TARGET)


def target_files(cfg: Config) -> list[str]:
    """List the files of the target's training images; none where they are in memory alone.

    Args:
        cfg: The base config of the ladder.
    """
    loader = (cfg.get('ladder') or {}).get('target_dataloader')
    if not loader:
        return []
    loader = inherit_dataloader(cfg.train_dataloader, loader, 'ladder.target_dataloader')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        dataset = build_named_dataset(loader['dataset'])
    paths = (info.get('img_path') for info in image_infos(dataset))
    return [str(path) for path in paths if path is not None]


def count_target_labels(cfg: Config) -> TargetLabels:
    """Count the target images that have labels; builds the data sets.

    Args:
        cfg: The base config of the ladder.
    """
    counts = {split: _count(cfg, split) for split in SPLITS}
    metrics = _metrics(cfg, 'val')
    return TargetLabels(
        **counts,
        accuracy=any(type_name(one) not in NO_LABELS for one in metrics),
        # Without labels, `measure_by_labels` replaces metrics that need them by a score.
        score=any(_gives_score(one) for one in metrics) or all(map(_needs_labels, metrics)),
    )


def _count(cfg: Config, split: str) -> Count | None:
    if TARGET not in _domains(cfg, split):
        return None
    dataset = build_domain_dataset(cfg, TARGET, split)
    if not hasattr(dataset, 'get_data_info'):
        return Count(len(dataset), len(dataset))  # not one of mmengine's: unknown
    # Some without any are refused, whatever measures them.
    check_labels_known(
        f'{split}_cfg.dataloaders.{TARGET}', dataset, (), f'{split}_cfg.evaluators.{TARGET}'
    )
    labels = (dataset.get_data_info(index).get('gt_label') for index in range(len(dataset)))
    return Count(sum(map(_is_label, labels)), len(dataset))


def _is_label(label: Any) -> bool:
    return label is not None and np.size(label) > 0 and bool((np.asarray(label) >= 0).all())


def not_validated(cfg: Config, labels: TargetLabels) -> dict[str, str]:
    """Return the domains whose validation can't choose a rung -> why.

    Args:
        cfg: The base config of the ladder.
        labels: Of its target.
    """
    if not (cfg.get('val_dataloader') and cfg.get('val_evaluator')):
        none = 'the config has no validation (val_dataloader, val_cfg, val_evaluator)'
        return {SOURCE: none, TARGET: none}
    why = labels.why_no_choice()
    return {TARGET: why} if why else {}


def notes_on_labels(labels: TargetLabels) -> list[str]:
    """Describe in sentences which target images have no labels."""
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
    """Replace the target's metrics by ones that fit its labels.

    Without labels, a ``TargetValidator`` replaces the metrics that need them; with labels on some
    of the images, these metrics use those images alone. A config whose target images all have
    labels stays as it is.

    Args:
        cfg: The base config of the ladder. It isn't changed.
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
                dict(type='LabelledOnly', metric=one) if _needs_labels(one) else one
                for one in metrics
            ]
        else:
            fitting = [one for one in metrics if not _needs_labels(one)]
            fitting = fitting or [dict(type='TargetValidator')]
        if fitting != metrics:
            changed = changed or copy.deepcopy(cfg)
            changed.merge_from_dict({f'{split}_cfg': {'evaluators': {TARGET: fitting}}})
    return changed or cfg


def _domains(cfg: Config, split: str) -> Mapping:
    return (cfg.get(f'{split}_cfg') or {}).get('dataloaders') or {}


def _metrics(cfg: Config, split: str) -> list:
    """Return the metrics of the target, from any form of evaluator that a config may have."""
    own = (cfg.get(f'{split}_cfg') or {}).get('evaluators') or {}
    found = own.get(TARGET, cfg.get(f'{split}_evaluator'))
    if isinstance(found, Evaluator):
        found = found.metrics
    if isinstance(found, Mapping) and 'metrics' in found:
        found = found['metrics']
    return list(found) if isinstance(found, (list, tuple)) else [found] if found else []


def _gives_score(metric: Any) -> bool:
    """Return whether a metric gives the score that rungs are chosen by without labels."""
    if not isinstance(metric, Mapping) or type_name(metric) != 'TargetValidator':
        return False
    return not metric.get('prefix') and SCORE_NAME in metric.get('scores', [SCORE_NAME])


def _needs_labels(metric: Any) -> bool:
    """Return whether a metric, or its config, needs labels."""
    kind = metric.get('type') if isinstance(metric, Mapping) else type(metric)
    if isinstance(kind, str):
        kind = METRICS.get(kind)
    return needs_labels(kind)
