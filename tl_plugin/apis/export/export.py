"""Write a checkpoint in another format, checked on real images before the file is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from tl_plugin.analysis.card import origin_of, write_card
from tl_plugin.datasets.wrappers import inner_configs
from tl_plugin.evaluation.calibration import Calibration, calibration_path
from tl_plugin.reliability.class_sets import dataset_classes, has_several_labels
from tl_plugin.reliability.files import read_json, write_text
from tl_plugin.reliability.fingerprint import fingerprint
from tl_plugin.stack.messages import did_you_mean
from tl_plugin.stack.options import type_name
from tl_plugin.stack.protocol import TARGET

from .check import Agreement, check_agreement, compare
from .graphs import GRAPHS, check_installed, write_graph
from .images import (
    Shown,
    build_dataset,
    folder_loaders,
    shown_images,
    test_loaders,
    test_pipeline,
)
from .network import Network, Reference, Trained, load_trained
from .places import FORMATS, WEIGHTS, card_path, check_place, default_path, place, place_standalone
from .preprocessing import Pipeline, Preprocessing, read_pipeline

#: Format -> what loads it, where its name doesn't say.
LIBRARIES = {'torch_export': 'pytorch', 'torchscript': 'pytorch'}
PRECISIONS = ('fp32', 'fp16', 'int8')


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        files: The files and folders.
        agreement: With the checkpoint, on real images.
        notes: What there is to know about them, in sentences.
    """

    files: list[Path]
    agreement: Agreement
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """What is exported: a model, its images, what is said about it."""

    trained: Trained
    reference: Reference
    loaders: dict[str, dict]
    shown: dict[str, list[Shown]]
    metadata: dict[str, Any]
    cfg: Config


def export_model(
    cfg: Config,
    checkpoint: str | Path,
    out: str | Path | None = None,
    format: str = 'onnx',
    precision: str = 'fp32',
    preprocessing: bool = True,
    dynamic_size: bool = False,
    domain: str = TARGET,
    images: Sequence[str] = (),
    num_images: int = 16,
    standalone: bool = True,
    card: bool = False,
    opset: int | None = None,
    say: Callable[[str], None] = print,
) -> Exported:
    """Write a checkpoint in another format.

    What training alone needs (discriminators, a teacher, copies of the source model, the optimizer)
    is left out, and running statistics that are kept by domain become those of one domain. The file
    is run on real images in a process that has neither mmpretrain nor this package, and only moved
    to its place if it predicts what the checkpoint does.

    Args:
        cfg: Config of the run, out of :func:`tl_plugin.launch.configs.load_config`.
        checkpoint: Weights that it trained.
        out: The file, or the folder for 'timm' and 'mmpretrain'. Defaults to None, beside the
            checkpoint.
        format: 'onnx', 'torch_export' (``.pt2``), 'torchscript', or weights for 'timm',
            'torchvision', 'mmpretrain' (a config and a checkpoint) or 'safetensors'. Defaults to
            'onnx'.
        precision: 'fp32', 'fp16', or 'int8' (ONNX alone), whose ranges are taken from images of
            the target. Defaults to 'fp32'.
        preprocessing: Whether a graph takes uint8 images of any size, RGB, (N, H, W, 3), and
            resizes them as the pipeline of the test does; else what the data preprocessor gives,
            float32, (N, C, H, W). Defaults to True.
        dynamic_size: Whether the network takes images of any size, where the pipeline doesn't
            resize them to one, or is left out. Defaults to False.
        domain: Whose running statistics to write, where there are two. Defaults to 'target'.
        images: Folders of images of the source and of the target to check on. Defaults to (), those
            of the config's test.
        num_images: Of each domain, for the check. Defaults to 16.
        standalone: Whether a program that labels folders is written beside an ONNX file. Defaults
            to True.
        card: Whether a model card is written beside it, ``NAME.md``, out of the records of the
            ladder, the calibration and the corruptions that lie around the checkpoint. Defaults to
            False.
        opset: Version of ONNX's operators, for a runtime that knows no newer ones. Defaults to
            None, what torch writes.
        say: Called with what there is to report, before anything is written. Defaults to ``print``.

    Returns:
        The files, and how near they come to the checkpoint.

    Raises:
        ValueError: If an argument, the config or the checkpoint can't be exported so, or something
            else is at the place of the file.
        ImportError: If a package for the format isn't installed.
        NotExportableError: If torch can't write the network as a graph.
        DisagreementError: If the file predicts something else than the checkpoint.
    """
    _check_arguments(format, precision, preprocessing, opset)
    target = Path(out or default_path(checkpoint, format, precision))
    check_place(target, format, card)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it gets there by a change of its name, and is refused at once where
    # nothing can be written.
    with tempfile.TemporaryDirectory(prefix=f'.{target.name}.', dir=target.parent) as folder:
        source = _read(cfg, checkpoint, domain, images, num_images)
        written = Path(folder, target.name)
        if format in GRAPHS:
            found, notes = _graph(
                source, written, format, precision, preprocessing, dynamic_size, opset, say
            )
        else:
            from .weights import write_weights

            found, notes = write_weights(
                source.trained,
                source.reference,
                source.shown,
                source.metadata,
                written,
                format,
                test_pipeline(source.cfg),
            )
        notes += _adaptation_notes(source.cfg)
        check_agreement(found, bits=16 if precision == 'fp16' else 32)
        # They say how to load what lies at the target's place in a moment.
        notes = [note.replace(str(written), str(target)) for note in notes]
        for line in [*found.lines(), *notes]:
            say(line)
        files = [place(written, target)]
    if format == 'onnx' and preprocessing and standalone:
        files.append(place_standalone(target))
    if card:
        path = card_path(target)
        datasets = {name: build_dataset(loader) for name, loader in source.loaders.items()}
        names = [file.name for file in files]
        # A card travels with the files, and names no place on this machine.
        lines = [*found.lines(), *(note.replace(str(target), target.name) for note in notes)]
        weights = fingerprint(source.trained.weights)
        library = LIBRARIES.get(format, format)
        text = write_card(
            target.stem, checkpoint, source.metadata, datasets, names, lines, weights, library
        )
        write_text(path, text)
        files.append(path)
    return Exported(files, found, notes)


def _check_arguments(
    format: str, precision: str, preprocessing: bool, opset: int | None = None
) -> None:
    if format not in FORMATS:
        raise ValueError(
            f'format must be one of {", ".join(FORMATS)}, got {format!r}.'
            + did_you_mean(format, FORMATS)
        )
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be one of {", ".join(PRECISIONS)}, got {precision!r}')
    if precision == 'int8' and format != 'onnx':
        raise ValueError(f"int8 is written by onnxruntime: use format='onnx', got {format!r}")
    if precision == 'fp16' and format in WEIGHTS:
        raise ValueError(
            f'weights for {format} are written as they are, in float32: call .half() where they '
            'are loaded, or write a graph (onnx, torch_export, torchscript)'
        )
    if not preprocessing and format in WEIGHTS:
        raise ValueError(f'weights for {format} never have preprocessing: leave the option out')
    if opset is not None and (format != 'onnx' or opset < 1):
        raise ValueError(
            f"opset is the version of ONNX's operators, from 1, got {opset} for {format}"
        )
    if format == 'onnx':
        check_installed()


def _check_statistics(cfg: Config, meta: dict) -> None:
    """Refuse a checkpoint whose batch statistics are not those that the config's test takes.

    Raises:
        ValueError: If an ``AdaBNHook`` would adapt them, and the checkpoint is of a run without it.
    """
    hooks = {type_name(hook) for hook in cfg.get('custom_hooks') or []}
    if 'AdaBNHook' in hooks and 'AdaBNHook' not in (meta.get('cfg') or 'AdaBNHook'):
        raise ValueError(
            "this config's AdaBNHook gives the model the target's batch statistics before each "
            'test, and the checkpoint, which was written without it, has others. Write one that '
            'has them: tools/train.py CONFIG --strategy adabn no_training --cfg-options '
            'load_from=CHECKPOINT'
        )


def _adaptation_notes(cfg: Config) -> list[str]:
    if type_name(cfg.model) != 'TestTimeClassifier':
        return []
    return [
        'The config adapts while it predicts, and the file does not: it has the weights of the '
        'checkpoint (custom_hooks.TestTimeAdaptationHook.save=True writes adapted ones).'
    ]


def _read(
    cfg: Config, checkpoint: str | Path, domain: str, images: Sequence[str], num_images: int
) -> _Source:
    trained = load_trained(cfg, checkpoint, domain)
    _check_statistics(cfg, trained.meta)
    pipeline = test_pipeline(cfg)
    if images:
        missing = [folder for folder in images if not Path(folder).is_dir()]
        if missing or len(images) > 2:
            raise ValueError(
                f'images are a folder of the source and one of the target, got {", ".join(images)}'
                + (f': {missing[0]} is no folder' if missing else '')
            )
        loaders = folder_loaders(images, pipeline)
    else:
        loaders = test_loaders(cfg)
    for loader in loaders.values():
        for inner in inner_configs(loader['dataset']):
            inner['pipeline'] = pipeline
    datasets = {name: build_dataset(loader) for name, loader in loaders.items()}
    to_rgb = trained.model.data_preprocessor.to_rgb
    shown = {name: list(shown_images(each, num_images, to_rgb)) for name, each in datasets.items()}
    temperature = _temperature(trained, checkpoint)
    loads = any(type_name(step).startswith('LoadImage') for step in pipeline)
    metadata = _metadata(trained, checkpoint, temperature, datasets, loads)
    reference = Reference(cfg, checkpoint, domain, temperature)
    return _Source(trained, reference, loaders, shown, metadata, cfg)


def _temperature(trained: Trained, checkpoint: str | Path) -> float:
    """Return what tools/calibrate.py found for these weights, or what the checkpoint says."""
    found = read_json(calibration_path(checkpoint))
    if found is not None:
        calibration = Calibration.from_json(found)
        if calibration.checkpoint == fingerprint(trained.weights) and not calibration.strategy:
            return float(calibration.temperature)
    return float(trained.meta.get('temperature') or 1.0)


def _metadata(
    trained: Trained,
    checkpoint: str | Path,
    temperature: float,
    datasets: dict,
    loads: bool,
) -> dict[str, Any]:
    meta, model = trained.meta, trained.model
    preprocessor = model.data_preprocessor
    known = (meta.get('dataset_meta') or {}).get('classes')
    classes = known or next((dataset_classes(each) for each in datasets.values()), None)
    several = has_several_labels(getattr(model, 'head', None))
    normalise = getattr(preprocessor, '_enable_normalize', False)
    return {
        'format_version': 1,
        'classes': list(map(str, classes or [])),
        'activation': 'sigmoid' if several else 'softmax',
        'threshold': (getattr(model.head, 'thr', None) or 0.5) if several else None,
        'temperature': temperature,
        'normalisation': {
            'mean': preprocessor.mean.flatten().tolist() if normalise else None,
            'std': preprocessor.std.flatten().tolist() if normalise else None,
            'channels': 'RGB' if preprocessor.to_rgb or not loads else 'BGR',
        },
        'provenance': {
            **origin_of(checkpoint, meta, str(trained.config.model.type)),
            'exported': datetime.now().astimezone().isoformat(timespec='seconds'),
        },
    }


def _graph(
    source: _Source,
    path: Path,
    format: str,
    precision: str,
    preprocessing: bool,
    dynamic_size: bool,
    opset: int | None,
    say: Callable[[str], None],
) -> tuple[Agreement, list[str]]:
    model = source.trained.model
    example = next(iter(source.shown.values()))[0]
    channels = example.pixels.shape[2]
    pipeline = read_pipeline(test_pipeline(source.cfg)) if preprocessing else Pipeline((), None)
    before = None
    if preprocessing:
        before = Preprocessing(pipeline, source.reference.model.data_preprocessor, channels)
    network = Network(model, before, source.metadata['temperature'], precision == 'fp16')
    sizes = bool(pipeline.steps) or dynamic_size
    any_number = write_graph(
        network,
        _example(source, example, pipeline, preprocessing),
        sizes,
        path,
        format,
        lambda any_number: _with_input(
            source.metadata, example, pipeline, preprocessing, sizes, any_number, precision
        ),
        opset,
    )
    found = compare(
        format, path, network, source.reference, source.shown, preprocessing, any_number
    )
    notes = []
    if preprocessing and not pipeline.exact():
        notes.append(
            'The file resizes with the weights and the rounding of the library that the pipeline '
            'uses, whose versions differ in order and last bits: a pixel may be a level off, and a '
            'few at sharp edges.'
        )
    if precision == 'int8':
        from .quantize import quantize

        check_agreement(found)
        notes += quantize(
            source.cfg,
            path,
            source.loaders,
            preprocessing,
            source.reference,
            any_number,
            say,
        )
    return found, notes


def _example(source: _Source, shown: Shown, pipeline: Pipeline, preprocessing: bool) -> Any:
    if not preprocessing:
        return source.reference.preprocess(shown.inputs[None]).expand(2, -1, -1, -1).contiguous()
    channels = shown.pixels.shape[2]
    # Sides that nothing in the network has, so that they stay symbols.
    size = (257, 311) if pipeline.steps else shown.pixels.shape[:2]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *size, channels), dtype=torch.uint8, generator=generator)


def _with_input(
    metadata: dict,
    shown: Shown,
    pipeline: Pipeline,
    preprocessing: bool,
    sizes: bool,
    any_number: bool,
    precision: str,
) -> dict[str, Any]:
    """Add to the metadata what a caller has to know about the input."""
    if preprocessing:
        given = dict(layout='NHWC', dtype='uint8', channels=shown.pixels.shape[2])
        size = None if sizes else list(shown.pixels.shape[:2])
    else:
        given = dict(layout='NCHW', dtype='float32', channels=shown.inputs.shape[0])
        size = None if sizes else list(shown.inputs.shape[1:])
    given.update(size=size, any_number=any_number)
    steps = [f'{type(step).__name__}{tuple(step)}' for step in pipeline.steps]
    return {**metadata, 'input': given, 'steps': steps, 'precision': precision}
