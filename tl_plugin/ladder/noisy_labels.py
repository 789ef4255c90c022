"""Rungs for a source with wrong labels: it is checked before the climb, and cleaned for a rung.

The ladder checks by itself, as nobody expects wrong labels in curated data, and before the climb:
a network that has learned from wrong labels repeats them. A sample is enough to see that there are
few; only where there are many is the whole source looked at.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from tl_plugin.analysis.label_inputs import check_parts, outputs_of_config
from tl_plugin.analysis.label_records import NOISY, LabelReport
from tl_plugin.intake.any_data import read_datasets
from tl_plugin.intake.degraded_copy import colour_thumbnails
from tl_plugin.intake.images import TRAIN, DomainImages, ImageItem
from tl_plugin.intake.label_corrections import Corrections, corrected_dataset
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import read_json, write_json
from tl_plugin.reporting.progress import progress

from .ready_config import content_key, ready_config
from .recommend import BASELINE, CLEANED, ROBUST
from .rungs import Rung
from .selection import read_rungs

RECORD_NAME = 'source_labels.json'
#: Images of the sample: at least, of each class, and at most.
SAMPLE, OF_CLASS, MOST = 500, 25, 2000
_CHECK = "the check of the source's labels"
_ABOUT = {
    CLEANED: 'Trains on the source alone, as source_only does, after its labels were checked: '
    'as many as seem wrong are replaced by the class of which two judges are sure, or left out. No '
    'file is changed.',
    ROBUST: 'Trains on the source alone, as source_only does, with a loss by which labels that the '
    'model finds improbable count less (generalized cross-entropy).',
}


@dataclass(frozen=True)
class SourceLabels:
    """The labels of the source's training images, as far as they were checked.

    Args:
        key: Of the images, their labels and the config.
        images: That were judged.
        noisy: Whether more than :data:`~tl_plugin.analysis.label_records.NOISY` of them are wrong.
        about: What was found, in a part of a sentence.
        changes: What ``cleaned`` changes: dicts of ``file``, ``before`` and ``after``, None where
            the image is left out. None where only a sample was judged.
    """

    key: str
    images: int
    noisy: bool
    about: str
    changes: list[dict] | None = None


def add_label_rungs(
    cfg: Config, rungs: Sequence[str] | None, folder: Path, has_weights: Callable[[], bool]
) -> tuple[Config, dict[str, str]]:
    """Add the rungs ``cleaned`` and ``robust`` where the source's labels are wrong.

    Args:
        cfg: The base config of the ladder. It isn't changed.
        rungs: Names of the rungs that are asked for; None for all that make sense. These two can be
            asked for whatever the labels are like.
        folder: Of the climb. Gets ``source_labels.json``: what was found and is changed.
        has_weights: Returns whether the config names weights for its network.

    Returns:
        The config, with the rungs and with notes on the labels where there are any; and those of
        the two that aren't added -> why.

    Raises:
        ValueError: If ``cleaned`` is asked for and no label is to be changed.
    """
    own = (cfg.get('ladder') or {}).get('rungs') or {}
    names = [name for name in (CLEANED, ROBUST) if name not in own]
    wanted = [name for name in names if rungs is None or name in rungs]
    if not wanted:
        return cfg, {}
    failed: dict[str, str] = {}
    found = None
    if rungs is None:
        check = partial(check_source_labels, cfg, folder, has_weights)
        found = attempt(_CHECK, check, failed)
        if found is None or not found.noisy:
            why = f'{_CHECK} failed: {failed.get(_CHECK)}'
            if found is not None:
                few = f'it is for a source of which more than {NOISY:.0%} is mislabelled'
                why = f'{few}; {found.about}'
            return cfg, dict.fromkeys(wanted, why)
    elif CLEANED in wanted:
        found = check_source_labels(cfg, folder, has_weights, whole=True)
    plain = read_rungs(cfg.get('ladder') or {})[BASELINE]
    added, notes = {}, []
    if CLEANED in wanted:
        make = partial(_cleaned, cfg, plain, found, folder)
        dataset = attempt(CLEANED, make, failed) if rungs is None else make()
        if dataset is not None:
            options = {**plain.options, 'train_dataloader.dataset': dataset}
            added[CLEANED] = dict(_fields(plain, CLEANED), options=options)
        notes = _notes(found, folder, added)
    if ROBUST in wanted:
        strategies = [*plain.strategies, 'robust_loss']
        added[ROBUST] = dict(_fields(plain, ROBUST), strategies=strategies)
    changed = copy.deepcopy(cfg)
    settings = dict(cfg.get('ladder') or {}, rungs={**own, **added})
    changed.ladder = dict(settings, notes=[*(settings.get('notes') or ()), *notes])
    return changed, {CLEANED: failed[CLEANED]} if CLEANED in failed else {}


def _fields(plain: Rung, name: str) -> dict:
    """Return what a rung shares with ``source_only``, which it is compared with."""
    shared = ('strategies', 'data', 'start', 'options')
    return dict({key: getattr(plain, key) for key in shared}, about=_ABOUT[name])


def _cleaned(cfg: Config, plain: Rung, found: SourceLabels, folder: Path) -> dict:
    """Return the config of the source's training images with their labels changed."""
    labels = {change['file']: change['after'] for change in found.changes}
    if not labels:
        raise ValueError(
            f'{CLEANED} has nothing to change, as no label of the source looks wrong: leave it out'
        )
    corrections = Corrections(f'the check in {folder / RECORD_NAME}', labels)
    dataset = ready_config(cfg, plain, seed=0).train_dataloader.dataset
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain'):
        cleaned = corrected_dataset(dataset, TRAIN, corrections)
    if not (corrections.changed or corrections.dropped):
        raise ValueError(
            f'{CLEANED} cannot change labels of a data set that does not name its classes: give it '
            'metainfo=dict(classes=[...])'
        )
    return dict(cleaned, _delete_=True)


def _notes(found: SourceLabels, folder: Path, added: dict) -> list[str]:
    notes = [f'{found.about[0].upper()}{found.about[1:]}.']
    if CLEANED in added:
        dropped = sum(change['after'] is None for change in found.changes)
        notes.append(
            f'The rung {CLEANED} gives another class to {len(found.changes) - dropped} training '
            f'images and leaves out {dropped}; {folder / RECORD_NAME} lists them, and no file is '
            'changed.'
        )
    notes.append(
        "The source's validation and test images most likely have wrong labels, too: accuracies on "
        'the source look lower than they are.'
    )
    return notes


def check_source_labels(
    cfg: Config, folder: Path, has_weights: Callable[[], bool], whole: bool = False
) -> SourceLabels:
    """Judge the labels that ``source_only`` would train on.

    The judges compare features of the network as it starts, or thumbnails where it has no weights.
    A sample is judged first, and the whole where its labels are wrong. What was found for the same
    images, labels and config is read again.

    Args:
        cfg: The base config of the ladder.
        folder: Of the climb.
        has_weights: Returns whether the config names weights for its network.
        whole: Judge all images, whatever the sample is like. Defaults to False.

    Raises:
        ValueError: If the images can't be read or have labels of fewer than two classes.
    """
    ready = ready_config(cfg, read_rungs(cfg.get('ladder') or {})[BASELINE], seed=0)
    domain = read_datasets({TRAIN: ready.train_dataloader.dataset}, ready, 'the source')
    items = [item for item in domain.items if item.label is not None]
    labels = json.dumps([(item.name, item.label) for item in items])
    key = content_key(ready, None, hashlib.sha256(labels.encode()).hexdigest())
    known = _read(folder / RECORD_NAME)
    if known and known.key == key and not (whole and known.changes is None):
        return known
    look = _looks_at(domain, ready, folder, has_weights())
    sample = _sample(items)
    report = check_parts(domain.origin, *look(sample))
    judged = sample
    if (report.noisy or whole) and len(sample) < len(items):
        report, judged = check_parts(domain.origin, *look(items)), items
    changes = _changes(report) if len(judged) == len(items) else None
    found = SourceLabels(key, report.images, report.noisy, _about(report), changes)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD_NAME, vars(found))
    return found


def _read(path: Path) -> SourceLabels | None:
    found = read_json(path)
    return SourceLabels(**found) if found else None


def _sample(items: Sequence[ImageItem]) -> list[ImageItem]:
    """Choose images at random, the same ones each time, in their order."""
    size = min(max(SAMPLE, OF_CLASS * len({item.label for item in items})), MOST)
    chosen = np.random.default_rng(0).permutation(len(items))[:size]
    return [items[number] for number in sorted(chosen)]


def _looks_at(
    domain: DomainImages, cfg: Config, folder: Path, by_network: bool
) -> Callable[[Sequence[ImageItem]], tuple[list[ImageItem], np.ndarray]]:
    """Return a function that gives images and their features in one order."""

    def look(items: Sequence[ImageItem]) -> tuple[list[ImageItem], np.ndarray]:
        if by_network:
            return outputs_of_config(domain, items, cfg, folder)[:2]
        with progress('thumbnails', len(items)) as advance:
            return list(items), colour_thumbnails(items, advance).reshape(len(items), -1)

    return look


def _about(report: LabelReport) -> str:
    judged = f'{report.images:,} training images were judged by {report.judge}'
    if report.rate is None or not report.trusted:
        why = report.notes[-1] if report.notes else judged
        return f"how many of the source's labels are wrong can't be said: {why.rstrip('.')}"
    value, low, high = (100 * end for end in report.rate)
    return (
        f"about {value:.1f}% of the source's labels look wrong (95% interval {low:.1f} to "
        f'{high:.1f}%; {judged})'
    )


def _changes(report: LabelReport) -> list[dict]:
    """Return what to change: as many labels as are estimated to be wrong, the worst first.

    They get the class of which both judges are sure; where they aren't, the image is left out.
    """
    worst = 0 if report.rate is None else round(report.rate.value * report.images)
    return [
        dict(file=one.file, before=one.given, after=one.likely if one.kind == 'wrong' else None)
        for rank, one in enumerate(report.findings)
        if rank < worst or one.kind == 'wrong'
    ]
