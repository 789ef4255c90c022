"""Warn where the few target labels look wrong: each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from tl_plugin.analysis.label_check import check_labels
from tl_plugin.analysis.label_inputs import of_trained_model
from tl_plugin.analysis.label_records import LabelReport
from tl_plugin.engine.loops import inherit_dataloader
from tl_plugin.intake.any_data import read_datasets
from tl_plugin.intake.images import TRAIN
from tl_plugin.stack.messages import quiet, short_list

from .jobs import Job
from .recommend import BASELINE, TARGET_ACCURACY
from .rungs import ALL, LABELLED_TARGET, SOURCE_AND_LABELLED

_KEY = 'labelled_target_dataloader'
#: As many doubted labels or more would come of the source model's own errors with this probability
#: at most where they are worth a warning.
BY_CHANCE = 0.05


def notes_on_few_labels(cfg: Config, jobs: Sequence[Job], folder: Path) -> list[str]:
    """Judge the few target labels that rungs train on by the source model.

    Args:
        cfg: The base config of the ladder.
        jobs: Of the climb, after it.
        folder: Of the climb.

    Returns:
        A warning in sentences where they look wrong; none where they don't, where no rung trains on
        them, or where there is no source model.
    """
    few = (cfg.get('ladder') or {}).get(_KEY)
    trained_on = any(job.rung.data in (LABELLED_TARGET, SOURCE_AND_LABELLED, ALL) for job in jobs)
    source = next((job for job in jobs if job.rung.name == BASELINE and job.result()), None)
    if not (few and trained_on and source):
        return []
    loader = inherit_dataloader(cfg.train_dataloader, few, f'ladder.{_KEY}', labelled=True)
    domain = read_datasets({TRAIN: loader['dataset']}, cfg, 'the labelled target images')
    items = [item for item in domain.items if item.label is not None]
    result = source.result()
    with quiet([MMLogger.get_current_instance()]):  # which names each checkpoint that is read
        judged = of_trained_model(domain, items, source.config, result.checkpoint, folder)
    report = check_labels(domain.origin, *judged[:2], source_model=judged[2])
    return few_labels_in_words(report, result.validation.get(TARGET_ACCURACY))


def few_labels_in_words(report: LabelReport, accuracy: float | None) -> list[str]:
    """Warn of target labels that look wrong.

    Args:
        report: Of the check.
        accuracy: Percent of the target's validation images that the source model gets right; None
            where they have no labels.
    """
    from scipy import stats

    doubted = [one for one in report.findings if one.kind in ('wrong', 'ambiguous')]
    sure = [one for one in doubted if one.kind == 'wrong']
    if report.agreement is not None:  # enough of them to judge each other
        if not report.noisy:
            return []
        return [
            f'About {report.rate.value:.0%} of the {report.images} target labels that are trained '
            f'on look wrong: {_named(sure)}. Check them.'
        ]
    said = f'{len(doubted)} of the {report.images} target labels that are trained on are doubted '
    said += f'by the source model, {len(sure)} of them surely'
    if accuracy is None:
        known = 'How often it errs on the target is not known.'
        warn = bool(sure)
    else:
        usual = report.images * (1 - accuracy / 100)
        known = (
            f'It errs on {100 - accuracy:.0f}% of the target by itself, which makes {usual:.0f}.'
        )
        chance = stats.binom.sf(len(doubted) - 1, report.images, 1 - accuracy / 100)
        warn = bool(doubted) and chance <= BY_CHANCE
    if not warn:
        return []
    return [
        f'Some target labels look wrong: {said}. {known} So few labels say no more; look at '
        f'{_named(sure or doubted)}.'
    ]


def _named(findings: Sequence) -> str:
    return short_list([f'{one.file} (given {one.given}, likely {one.likely})' for one in findings])
