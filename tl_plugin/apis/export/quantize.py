"""Quantise an ONNX file to int8 with ranges from target images, and say what it costs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from tl_plugin.stack.protocol import TARGET

from .check import run_apart
from .graphs import INPUT, SCOPES
from .images import Shown, build_dataset, calibration_loader, shown_images
from .network import Reference

#: Target images that ranges are taken from, and images of each domain that accuracy is over.
CALIBRATION_IMAGES, ACCURACY_IMAGES = 128, 2000
BATCH = 16
#: Operators that compute in int8.
QUANTIZED = ('Conv', 'Gemm', 'MatMul')


def quantize(
    cfg: Config,
    path: Path,
    loaders: Mapping[str, dict],
    raw: bool,
    reference: Reference,
    any_number: bool,
    say: Callable[[str], None],
) -> list[str]:
    """Replace an ONNX file by its int8 form: static ranges, weights by channel, QDQ nodes.

    The ranges of activations are a matter of the domain (Jacob et al., CVPR 2018, arXiv 1712.05877,
    calibrate on images like those to come), so they are taken from target images, which are those
    of training or validation. What it costs is measured on the images of the config's test.

    Args:
        cfg: The config.
        path: The file, checked already.
        loaders: Domain -> config of its loader.
        raw: Whether the file takes images as they are decoded.
        reference: The checkpoint.
        any_number: Whether the file takes several images at a time.
        say: Called with the accuracy of each domain, before and after.

    Returns:
        What there is to know, in sentences.

    Raises:
        ValueError: If the config names no target images to take the ranges from.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    to_rgb = reference.model.data_preprocessor.to_rgb
    images = list(shown_images(build_dataset(calibration_loader(cfg)), CALIBRATION_IMAGES, to_rgb))

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = (_input(image, raw, reference) for image in images)

        def get_next(self) -> dict | None:
            one = next(self.left, None)
            return None if one is None else {INPUT: one[None]}

    quantized = path.with_name(f'int8.{path.name}')
    logging.disable(logging.WARNING)  # advice on options that change nothing here
    try:
        quantize_static(
            str(path),
            str(quantized),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # The products of 8-bit numbers overflow on CPUs without VNNI, if weights use all bits.
            reduce_range=True,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_before_the_network(path),
        )
    finally:
        logging.disable(logging.NOTSET)
    share = _quantized_share(quantized)
    if not share:
        raise ValueError(
            'onnxruntime found nothing to quantise in this network: it has neither convolutions '
            'nor matrix products, or none with constant weights'
        )
    notes = [
        f'int8: {share} convolutions and matrix products in int8, ranges of {len(images)} target '
        'images without their labels.'
    ]
    for name, loader in loaders.items():
        dataset = build_dataset(loader)
        shown = list(shown_images(dataset, ACCURACY_IMAGES, to_rgb))
        before, after = (
            _predicted(each, shown, raw, reference, any_number) for each in (path, quantized)
        )
        say(_in_words(name, [image.label for image in shown], before, after))
    size = os.path.getsize(path) / os.path.getsize(quantized)
    notes.append(f'int8: the file is {size:.1f} times smaller.')
    first = _input(images[0], raw, reference)[None]
    _, seconds = run_apart('onnx', quantized, [first])
    notes.append(f'int8: {1000 * seconds:.1f} ms an image.')
    os.replace(quantized, path)
    return notes


def _before_the_network(path: Path) -> list[str]:
    """Name the nodes of the preprocessing, whose levels are no activations."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [
        node.name
        for node in nodes
        if any(
            prop.key == SCOPES and "'preprocessing'" in prop.value for prop in node.metadata_props
        )
    ]


def _quantized_share(path: Path) -> str:
    """Return how many of the operators have quantised inputs, '' if none has."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    outputs = {name for node in nodes if node.op_type == 'DequantizeLinear' for name in node.output}
    kinds = [node for node in nodes if node.op_type in QUANTIZED]
    count = sum(node.input[0] in outputs for node in kinds)
    return f'{count} of {len(kinds)}' if count else ''


def _input(image: Shown, raw: bool, reference: Reference) -> np.ndarray:
    return image.pixels if raw else reference.preprocess(image.inputs[None])[0].numpy()


def _predicted(
    path: Path, shown: Sequence[Shown], raw: bool, reference: Reference, any_number: bool
) -> np.ndarray:
    """Return the class of each image, (N,)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get('OMP_NUM_THREADS', 0))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    found = [
        session.run(None, {INPUT: batch})[0].argmax(axis=1)
        for batch in _batches((_input(one, raw, reference) for one in shown), any_number)
    ]
    return np.concatenate(found)


def _batches(inputs: Iterator[np.ndarray], any_number: bool) -> Iterator[np.ndarray]:
    """Yield neighbours of one shape together."""
    waiting: list[np.ndarray] = []
    for one in inputs:
        full = len(waiting) == (BATCH if any_number else 1)
        if full or (waiting and waiting[0].shape != one.shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield np.stack(waiting)


def _in_words(name: str, labels: Sequence[Any], before: np.ndarray, after: np.ndarray) -> str:
    same = f'{100 * (before == after).mean():.1f}% of {len(after)} images keep their class'
    known = np.array([label is not None for label in labels])
    if not known.any():
        return f'int8, {name}: {same} (none has a label)'
    truth = np.array([-1 if label is None else label for label in labels])[known]
    was, now = (100 * (found[known] == truth).mean() for found in (before, after))
    over = '' if known.all() else f' over {known.sum()} with a label'
    where = 'the target, whose images gave the ranges' if name == TARGET else name
    return f'int8, {where}: accuracy {was:.2f}% before, {now:.2f}% after{over}; {same}'
