"""Predict any number of images: in batches, on all processes, from where a killed run stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_dist_info

from tl_plugin.evaluation.calibration import Calibration, calibration_path, outputs_path
from tl_plugin.evaluation.source_reference import SourceReference
from tl_plugin.functional import free_energy
from tl_plugin.intake.trained_model import pipeline_config
from tl_plugin.launch.configs import load_config
from tl_plugin.reliability.files import read_json
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.reliability.ranks import on_all_ranks, on_main_process
from tl_plugin.reporting.progress import progress

from .adapt import adapt_to, strategy_notes
from .chunks import Chunk, Chunks, chunk_size
from .classifier import Classifier, Outputs, load_classifier
from .image_list import ImageList, list_images
from .loading import Batch, image_loader
from .rows import check_format, write_rows
from .settings import Settings, Thresholds
from .summary import Counted, Summary, write_summary

#: Images whose logits and features are kept, for what looks at all of them together: evenly spread.
SAMPLE = 4000
#: A process may wait so long for the slowest one.
_PATIENCE = timedelta(days=7)


@dataclass
class _Rows:
    """Predictions of a chunk that is under way, batch by batch."""

    start: int
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)
    count: int = 0

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        self.parts.append(arrays)
        self.count += len(arrays['faults'])

    def chunk(self) -> Chunk:
        joined = {name: _join([part[name] for part in self.parts]) for name in self.parts[0]}
        joined['probabilities'] = joined['probabilities'].sum(0)
        return Chunk(start=self.start, **joined)


def _join(parts: list[np.ndarray]) -> np.ndarray:
    """Join rows; those of a batch in which nothing could be read have no columns yet."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    none = {'f': np.nan, 'i': -1, 'u': 0}[parts[0].dtype.kind]
    return np.concatenate(
        [
            part if part.shape[1] == width else np.full((len(part), width), none, part.dtype)
            for part in parts
        ]
    )


def predict(
    config: str | Path | Config,
    checkpoint: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path = 'predictions.csv',
    settings: Settings | None = None,
    **changes: Any,
) -> Summary:
    """Predict the classes of images, and write a row for each.

    Run again after it was killed, with the same arguments, it goes on where it stopped: what was
    predicted lies in ``OUT.partial`` until the end. Under ``torchrun`` all processes share the
    images. What is in memory doesn't grow with the number of images, but their names.

    Args:
        config: Of the model: a file, ``package::path``, or a config with its strategies merged.
        checkpoint: Its weights.
        images: See :func:`tl_plugin.apis.image_list.list_images`.
        out: The table: ``.csv``, ``.json`` (a list of records), ``.jsonl`` or ``.parquet``, with
            the columns of :mod:`tl_plugin.apis.rows`. Beside it ``NAME.summary.json``,
            ``NAME.html`` and, if asked for, ``NAME.to_label.csv``.
        settings: How. Defaults to those of :class:`Settings`.
        **changes: Single settings, by name.

    Returns:
        What all predictions together say.

    Raises:
        FileExistsError: If ``out`` is there and ``overwrite`` isn't set: someone may have
            corrected it.
        ValueError: If config, weights and images don't fit together.

    Example:
        ``predict('config.py', 'epoch_9.pth', 'data/field', 'field.csv', top_k=1)``
    """
    settings = replace(settings or Settings(), **changes)
    out = Path(out)
    check_format(out)
    if out.exists() and not settings.overwrite:
        raise FileExistsError(
            f'{out} is there already, and someone may have corrected it: give another --out, or '
            '--overwrite'
        )
    _join_processes()
    names = list_images(images)
    classifier = load_classifier(configured(config, settings.strategy), checkpoint)
    thresholds = find_thresholds(classifier, settings)
    chunks = _chunks(out, names, classifier, settings, thresholds)
    on_main_process(chunks.begin)
    notes = [*names.notes, *strategy_notes(classifier.cfg, settings.strategy)]
    # Where one process fails, all do, and nobody waits; and nobody finishes before all have.
    notes += on_all_ranks(lambda: _work(classifier, names, chunks, settings, thresholds))[0]
    return on_main_process(
        lambda: _finish(out, names, chunks, classifier, settings, thresholds, notes)
    )


def configured(config: str | Path | Config, strategy: Sequence[str]) -> Config:
    """Read a config and merge strategies over it; one that is read already has them merged."""
    return config if isinstance(config, Config) else load_config(config, strategy)


def _work(
    classifier: Classifier,
    names: ImageList,
    chunks: Chunks,
    settings: Settings,
    thresholds: Thresholds,
) -> list[str]:
    """Predict the share of this process; return notes on how."""
    rank, world = get_dist_info()
    missing = on_main_process(chunks.missing)  # as it was before anyone wrote one
    cfg = classifier.cfg
    done = ''
    if settings.strategy and missing:
        loading = batch_size_of(cfg, settings), workers_of(cfg, settings)
        done = adapt_to(classifier, names, *loading, settings.seed)
    own = missing[rank::world]
    with progress('Predicting', sum(len(chunks.images(number)) for number in own)) as advance:
        for chunk in _predicted(classifier, names, chunks, own, settings, thresholds):
            chunks.write(chunk)
            advance(len(chunk))
    return [done] if done else []


def find_thresholds(classifier: Classifier, settings: Settings) -> Thresholds:
    """Read the calibration of a checkpoint, and what it says for the wanted precision and coverage.

    Args:
        classifier: The model.
        settings: How.

    Raises:
        FileNotFoundError: If the calibration that was asked for isn't there.
        ValueError: If it is of other weights, or of other strategies.
    """
    path = Path(settings.calibration or calibration_path(classifier.checkpoint))
    found = read_json(path)
    if found is None and settings.calibration:
        raise FileNotFoundError(
            f'no calibration at {path.absolute()}: write one, tools/calibrate.py'
        )
    if found is None:
        return Thresholds(
            why_none=f'{classifier.checkpoint} is not calibrated: tools/calibrate.py CONFIG '
            f'{classifier.checkpoint} writes {path.name} beside it'
        )
    calibration = Calibration.from_json(found)
    other = ''
    if calibration.checkpoint != classifier.weights:
        other = 'of other weights'
    elif calibration.strategy != list(settings.strategy):
        names = ' '.join(calibration.strategy) or 'no strategy'
        other = f'with {names}, and this is with {" ".join(settings.strategy) or "none"}'
    if other and settings.calibration:
        raise ValueError(f'{path} is a calibration {other}: calibrate again, tools/calibrate.py')
    if other:
        return Thresholds(why_none=f'{path} is left aside: it is a calibration {other}')
    outputs = None
    if outputs_path(path).is_file():
        with np.load(outputs_path(path), allow_pickle=False) as arrays:
            outputs = SourceReference.from_arrays(dict(arrays))
    return Thresholds(
        calibration,
        outputs=outputs,
        sure=calibration.sure_threshold(settings.precision),
        in_set=calibration.set_threshold(settings.coverage),
    )


def _chunks(
    out: Path,
    names: ImageList,
    classifier: Classifier,
    settings: Settings,
    thresholds: Thresholds,
) -> Chunks:
    calibration = thresholds.calibration
    about = dict(
        list=names.fingerprint(),
        weights=classifier.weights,
        pipeline=fingerprint(pipeline_config(classifier.cfg)),
        model=fingerprint(classifier.cfg.model.to_dict()),
        calibration=None if calibration is None else fingerprint(calibration.to_json()),
        top_k=settings.top_k,
        strategy=list(settings.strategy),
        precision=settings.precision,
        coverage=settings.coverage,
        amp=settings.amp,
        batch_size=batch_size_of(classifier.cfg, settings),
    )
    folder = out.with_name(f'{out.name}.partial')
    return Chunks(folder, len(names), chunk_size(about['batch_size']), about)


def _predicted(
    classifier: Classifier,
    names: ImageList,
    chunks: Chunks,
    missing: Sequence[int],
    settings: Settings,
    thresholds: Thresholds,
) -> Iterator[Chunk]:
    """Predict the missing chunks, one after the other."""
    indices = [index for number in missing for index in chunks.images(number)]
    kept = set(np.linspace(0, len(names) - 1, min(SAMPLE, len(names))).round().astype(int).tolist())
    device = next(classifier.model.parameters()).device
    loader = image_loader(
        names,
        classifier.pipeline(),
        indices,
        batch_size_of(classifier.cfg, settings),
        workers_of(classifier.cfg, settings),
        device.type == 'cuda',
    )
    rows = None
    for batch in loader:
        # Chunks are whole batches.
        rows = rows or _Rows(batch.indices[0])
        outputs = None
        if batch.inputs is not None:
            outputs = classifier(batch.inputs.to(device, non_blocking=True), settings.amp)
            _check_width(classifier, outputs)
        rows.add(_arrays(batch, outputs, settings, thresholds, kept))
        if rows.count == len(chunks.images(rows.start // chunks.size)):
            yield rows.chunk()
            rows = None


def _check_width(classifier: Classifier, outputs: Outputs) -> None:
    width = outputs.logits.shape[1]
    if classifier.classes and width != len(classifier.classes):
        raise ValueError(
            f'{classifier.checkpoint} names {len(classifier.classes)} classes, and the model of '
            f'the config has {width}: is it the config of this checkpoint?'
        )


def _arrays(
    batch: Batch,
    outputs: Outputs | None,
    settings: Settings,
    thresholds: Thresholds,
    kept: set[int],
) -> dict[str, np.ndarray]:
    """Return the part of a chunk that a batch makes."""
    count, read = len(batch.indices), batch.read.numpy()
    classes = 0 if outputs is None else outputs.logits.shape[1]
    features = None if outputs is None else outputs.features
    top = min(settings.top_k, classes)
    bits = -(-classes // 8) if thresholds.calibration else 0
    found = dict(
        faults=np.array([batch.faults.get(index, '') for index in batch.indices], dtype=str),
        labels=np.full((count, top), -1, dtype=np.int32),
        scores=np.full((count, top), np.nan, dtype=np.float32),
        energy=np.full(count, np.nan, dtype=np.float32),
        distance=np.full(count, np.nan, dtype=np.float32),
        sets=np.zeros((count, bits), dtype=np.uint8),
        probabilities=np.zeros((count, classes)),
        kept=np.empty(0, dtype=np.int64),
        kept_logits=np.empty((0, classes), dtype=np.float32),
        kept_features=np.empty((0, 0 if features is None else features.shape[1]), np.float32),
    )
    if outputs is None:
        return found
    probabilities = (outputs.logits / thresholds.temperature).softmax(1)
    scores, labels = probabilities.topk(top)
    energy = free_energy(outputs.logits, thresholds.temperature)
    found['scores'][read], found['labels'][read] = scores.cpu(), labels.cpu()
    found['energy'][read] = energy.cpu()
    found['probabilities'][read] = probabilities.cpu()
    calibration = thresholds.calibration
    if calibration is not None:
        within = (probabilities >= thresholds.in_set).cpu().numpy()
        within[np.arange(len(within)), labels[:, 0].cpu()] = True  # never an empty set
        found['sets'][read] = np.packbits(within, axis=1)
    reference = None if calibration is None else calibration.reference
    indices = np.array(batch.indices)[read]
    sampled = np.array([index in kept for index in indices.tolist()])
    if features is not None and (reference is not None or sampled.any()):
        features = features.cpu().numpy()
        if reference is not None:
            found['distance'][read] = reference.distances(features)
        found['kept_features'] = features[sampled]
    found['kept'] = indices[sampled]
    found['kept_logits'] = outputs.logits.cpu().numpy()[sampled]
    return found


def _finish(
    out: Path,
    names: ImageList,
    chunks: Chunks,
    classifier: Classifier,
    settings: Settings,
    thresholds: Thresholds,
    notes: Sequence[str],
) -> Summary:
    counted = Counted(names, classifier, settings, thresholds)
    # The chunks go last: a run that is killed here still has them.
    write_rows(out, map(counted.add, chunks), counted.table)
    summary = write_summary(out, counted, notes)
    chunks.remove()
    return summary


def batch_size_of(cfg: Config, settings: Settings) -> int:
    """Return how many images are a batch: as the settings say, or else the config."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return settings.batch_size or loader.get('batch_size') or 32


def workers_of(cfg: Config, settings: Settings) -> int:
    """Return how many processes read images: those of the settings, or else of the config."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return loader.get('num_workers', 0) if settings.workers is None else settings.workers


def _join_processes() -> None:
    """Join the processes that ``torchrun`` started; they exchange little, so over gloo."""
    if int(os.environ.get('WORLD_SIZE', 1)) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)))
        dist.init_process_group('gloo', timeout=_PATIENCE)
