"""Measure on labelled source images how often a model is right when it is so sure, and keep it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from tl_plugin.evaluation.calibration import (
    Calibration,
    calibration_path,
    fit_calibration,
    outputs_path,
)
from tl_plugin.evaluation.feature_reference import fit_reference
from tl_plugin.evaluation.source_reference import SourceReference, as_npz, source_reference
from tl_plugin.functional import shrunk_temperature
from tl_plugin.reliability.files import check_folder, write_json, write_whole
from tl_plugin.reporting.progress import progress
from tl_plugin.stack.protocol import TARGET

from .adapt import adapt_to
from .calibration_images import (
    Labelled,
    SourceImages,
    degraded_outputs,
    labelled_outputs,
    source_images,
    target_images,
    target_weights,
)
from .classifier import Classifier, load_classifier
from .image_list import list_images
from .predict import batch_size_of, configured, workers_of
from .settings import Settings

#: Images of each domain that a run is calibrated on when a ladder ends.
RUN_IMAGES = 500


@dataclass(frozen=True)
class Calibrated:
    """A calibration and where it was written.

    Args:
        calibration: The calibration.
        path: The file.
        notes: What else the reader should know.
    """

    calibration: Calibration
    path: Path
    notes: tuple[str, ...]


def calibrate(
    config: str | Path | Config,
    checkpoint: str | Path,
    target: str | Path | Sequence[str | Path] | None = None,
    max_images: int = 3000,
    strategy: Sequence[str] = (),
    out: str | Path | None = None,
    seed: int = 0,
) -> Calibrated:
    """Fit a temperature and the thresholds of a checkpoint, and write them beside it.

    Without a target, on the source's validation images (``val_dataloader``). With unlabelled images
    of a target, the temperature is that of the validation images and copies degraded in all ways
    together, which calibrated best on targets of eight pairs of domains; precision and coverage are
    measured on validation images degraded until their quality is that of the target, and weighted
    by how much denser the target lies at each one's features.

    The outputs for the degraded copies are kept, too (``NAME.outputs.npz``):
    :func:`~tl_plugin.apis.predict` reads the expected accuracy off them.

    Args:
        config: Of the model, see :func:`tl_plugin.apis.predict`.
        checkpoint: Its weights.
        target: Images without labels, see :func:`tl_plugin.apis.list_images`. Defaults to None.
        max_images: Of the source, and of the target; evenly spread. Defaults to 3000.
        strategy: Strategies that adapt the model to the target before: 'adabn'. Defaults to none.
        out: Defaults to None: ``NAME.calibration.json`` beside the checkpoint, where
            :func:`~tl_plugin.apis.predict` finds it.
        seed: Of everything random. Defaults to 0.

    Raises:
        ValueError: If there are fewer than 30 labelled validation images, or a strategy is to adapt
            to no target.
    """
    if strategy and target is None:
        raise ValueError(
            f'--strategy {" ".join(strategy)} adapts to a target: give --target IMAGES'
        )
    classifier = load_classifier(configured(config, strategy), checkpoint)
    path = Path(out) if out else calibration_path(classifier.checkpoint)
    check_folder(path.parent)
    notes: list[str] = []
    images = source_images(classifier, max_images)
    if target is not None:
        names = list_images(target)
        notes += names.notes
        loading = batch_size_of(classifier.cfg, Settings()), workers_of(classifier.cfg, Settings())
        if strategy:
            notes.append(adapt_to(classifier, names, *loading, seed))
    plain = labelled_outputs(classifier, images, 'Source')
    outputs, why = _degraded_in_all_ways(classifier, images)
    notes.append(why)
    if target is None:
        calibration = _fit(classifier, plain, "the source's validation images", strategy)
    else:
        features, few = target_images(classifier, names, loading, max_images)
        found, degraded = degraded_outputs(classifier, images, few, plain, seed)
        weights, weighed = target_weights(found.features, features)
        notes += [degraded, weighed]
        reference = None
        if plain.features is not None:
            reference = fit_reference(plain.features.numpy(), plain.labels.numpy())
        calibration = _fit(
            classifier,
            found,
            "the source's validation images"
            + ('' if found is plain else ", degraded until their quality is the target's"),
            strategy,
            weights=weights,
            temperature=None if outputs is None else _temperature(outputs),
            reference=reference,
        )
    if calibration.temperature == 1:
        notes.append(
            f'The temperature stays at 1: {calibration.images} validation images do not tell it '
            'from that, and one that was fitted to them would follow chance.'
        )
    write_json(path, calibration.to_json())
    kept = outputs_path(path)
    if outputs is None:
        kept.unlink(missing_ok=True)
    else:
        arrays = outputs.arrays()
        # Of the source alone no estimate needs features, which would make most of the file.
        arrays['source.features'] = arrays['source.features'][:, :0]
        write_whole(kept, as_npz(arrays))
    return Calibrated(calibration, path, tuple(filter(None, notes)))


def calibrate_run(config: str, checkpoint: str, target: Sequence[str]) -> str:
    """Calibrate a run that has ended, on some hundred images of each domain.

    Args:
        config: Of the run.
        checkpoint: Its model.
        target: Files of unlabelled target images; none, and the source's count as they are.

    Returns:
        What was found, in a sentence.
    """
    images = target[:: max(len(target) // RUN_IMAGES, 1)]
    one = calibrate(config, checkpoint, images or None, RUN_IMAGES).calibration
    left = ', as so few images do not tell it from that' if one.temperature == 1 else ''
    return (
        f'Calibrated, for tools/predict.py and tools/export.py: temperature {one.temperature:.2f}'
        f'{left}; {one.errors_in_words()} on {one.images} images ({one.fitted_on}).'
    )


def _fit(
    classifier: Classifier, found: Labelled, fitted_on: str, strategy: Sequence[str], **known: Any
) -> Calibration:
    return fit_calibration(
        found.logits,
        found.labels,
        found.features,
        **known,
        fitted_on=fitted_on,
        classes=[classifier.name(label) for label in range(found.logits.shape[1])],
        checkpoint=classifier.weights,
        strategy=list(strategy),
    )


def _degraded_in_all_ways(
    classifier: Classifier, images: SourceImages
) -> tuple[SourceReference | None, str]:
    """Return outputs for degraded copies, or None and why there are none."""
    if not hasattr(getattr(classifier.model, 'head', None), 'pre_logits'):
        return None, "Expected accuracy is not kept: the model has no head of mmpretrain's."
    try:
        with progress('Degraded in all ways', 1) as advance:
            found = source_reference(classifier.model, images.loader(), TARGET)
            advance(1)
    except ValueError as error:
        return None, f'Expected accuracy is not kept: {error}.'
    return found, ''


def _temperature(outputs: SourceReference) -> float:
    """Fit a temperature to images and their degraded copies, of which each image counts once."""
    parts = [outputs.source, *outputs.degraded.values()]
    images = [torch.arange(len(part.labels)) for part in parts]
    if len(images[0]) > len(images[-1]):  # of some there are no copies
        images[0] = images[0] - len(images[0])
    return shrunk_temperature(
        torch.cat([part.log_probabilities for part in parts]),
        torch.cat([part.labels for part in parts]),
        images=torch.cat(images),
    ).value
