"""From new images and an old diagnosis to a verdict: read, measure, compare, write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config

from tl_plugin.intake.backbone_choice import choose_model
from tl_plugin.intake.config_writer import pipelines
from tl_plugin.intake.images import DomainImages
from tl_plugin.reliability.fault_tolerance import attempt
from tl_plugin.reliability.files import read_json, write_json, write_text

from .diagnose import ScannedDomain, Settings, scan_domain
from .features import build_model
from .image_features import compute_features, probe_features
from .reference import DriftReference, KnownFeatures
from .watch import FEWEST, Watch, watch
from .watch_report import watch_page

JSON_NAME, HTML_NAME = 'watch.json', 'watch.html'
#: How far the features of the fixed pattern may lie from those of the diagnosis, whitened: other
#: machines round in other ways.
_SAME_NETWORK = 0.05


def watch_images(findings: str | Path, target: DomainImages, settings: Settings) -> Watch:
    """Compare new images with what a diagnosis kept of its target.

    Writes ``watch.json``, and ``watch.html``, which shows it.

    Args:
        findings: ``findings.json`` of the diagnosis.
        target: The new images; labels aren't looked at.
        settings: Of them count ``folder``, ``processes``, ``max_images``, ``seed``, and
            ``checkpoint``, where the weights lie elsewhere than then.

    Raises:
        FileNotFoundError: If there are no findings, or no weights of the network.
        ValueError: If the findings hold no reference, the network is another one than then, or too
            few images can be read.
    """
    content = read_json(findings)
    if content is None:
        raise FileNotFoundError(f'no findings at {Path(findings).absolute()}')
    if not content.get('reference'):
        raise ValueError(
            f'{findings} holds no reference: it was written by an older version, or is none of '
            'tools/diagnose.py. Diagnose the target once more'
        )
    reference = DriftReference.from_json(content['reference'])
    scanned = scan_domain('new images', target, settings)
    usable = scanned.usable()
    features = None
    if reference.features is not None and len(usable) >= FEWEST:
        features = _features(reference.features, scanned, settings)
    quality = [record.quality for _, record in usable]
    found = watch(reference, len(scanned.records), quality, features, settings.seed)
    write_json(settings.folder / JSON_NAME, found.to_json())
    page = settings.folder / HTML_NAME
    page.unlink(missing_ok=True)  # an older one would show other images
    html = attempt('watch.html', lambda: watch_page(found, str(findings), target.origin))
    if html is not None:
        write_text(page, html)
    return found


def _features(known: KnownFeatures, scanned: ScannedDomain, settings: Settings) -> np.ndarray:
    if known.own_pipelines != bool(scanned.images.datasets):
        kinds = 'a config', 'folders or tables'
        then, now = kinds if known.own_pipelines else reversed(kinds)
        raise ValueError(
            f'the diagnosis read its target by {then}, and these images come by {now}, which may '
            f'shape them otherwise: give them by {then}, too'
        )
    checkpoint = settings.checkpoint or known.checkpoint or None
    if checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f'the weights of the diagnosis, {checkpoint}, are not there (in {Path.cwd()}): say '
            'where they are, --checkpoint FILE'
        )
    choice = choose_model(known.backbone, max(len(known.classes), 2), checkpoint)
    model = build_model(
        Config(dict(model=choice.model, data_preprocessor=choice.data_preprocessor))
    )
    _, pipeline = pipelines(choice, known.image_size)
    folder = settings.folder / 'lists'
    probe = known.project(probe_features(model, pipeline, folder)[None])[0]
    gap = float(np.sqrt(np.mean((probe - known.probe) ** 2)))
    if not gap <= _SAME_NETWORK * (1 + float(np.sqrt(np.mean(known.probe**2)))):
        raise ValueError(
            f'{known.backbone} with {checkpoint or "its own weights"} gives other features of a '
            f'fixed pattern than at the diagnosis (they differ by {gap:.2g}): other weights, or '
            'another version of the library. Give those of then, or diagnose the target once more'
        )
    left_out = scanned.not_for_training()
    items = [item for item in scanned.images.items if item.name not in left_out]
    order = np.random.default_rng(settings.seed).permutation(len(items))[: settings.max_images]
    return compute_features(
        model,
        scanned.images,
        [items[index] for index in np.sort(order)],
        known.classes,
        pipeline,
        folder / 'watched_features.txt',
        'Features of the new images',
    )[0]
