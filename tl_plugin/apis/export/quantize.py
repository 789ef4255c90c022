"""Quantise an ONNX file to int8 with ranges from target images, and say what it costs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from tl_plugin.stack.protocol import TARGET

from .check import run_apart
from .graphs import INPUT, SCOPES
from .images import Shown, build_dataset, calibration_loader, shown_images
from .network import Reference

#: Target images that ranges are taken from, further ones that choose among the ways to take them,
#: and images of each domain that accuracy is over.
CALIBRATION_IMAGES, CHOICE_IMAGES, ACCURACY_IMAGES = 128, 64, 2000
BATCH = 16
#: Ways to take ranges: from the percentage of values that they hold to onnxruntime's options.
RANGES: dict[str, dict] = {
    '100%': dict(calibrate_method='MinMax'),
    '99.9%': dict(calibrate_method='Percentile', CalibPercentile=99.9),
}
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
    of training or validation. Whether they hold all values or leave out the rarest is decided by
    what comes nearest to the float network's probabilities on further target images, without their
    labels. What it costs is measured on the images of the config's test.

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
    to_rgb = reference.model.data_preprocessor.to_rgb
    images = list(
        shown_images(
            build_dataset(calibration_loader(cfg)), CALIBRATION_IMAGES + CHOICE_IMAGES, to_rgb
        )
    )
    inputs = [_input(image, raw, reference) for image in images]
    few = len(inputs) < 3 * BATCH  # then all are needed for both
    ranging = inputs if few else [one for place, one in enumerate(inputs) if place % 3 != 1]
    found = _nearest(path, ranging, inputs if few else inputs[1::3], any_number)
    kept = min(found, key=lambda name: found[name][1])
    quantized = found[kept][0]
    share = _quantized_share(quantized)
    if not share:
        raise ValueError(
            'onnxruntime found nothing to quantise in this network: it has neither convolutions '
            'nor matrix products, or none with constant weights'
        )
    tried = ', '.join(f'{apart:.4f} for {name}' for name, (_, apart) in found.items())
    notes = [
        f'int8: {share} convolutions and matrix products in int8, ranges of {len(ranging)} target '
        f'images without their labels, which hold {kept} of the values (mean difference of a '
        f'probability on target images: {tried}).'
    ]
    for name, loader in loaders.items():
        dataset = build_dataset(loader)
        shown = list(shown_images(dataset, ACCURACY_IMAGES, to_rgb))
        before, after = (
            _probabilities(
                each, (_input(image, raw, reference) for image in shown), any_number
            ).argmax(axis=1)
            for each in (path, quantized)
        )
        say(_in_words(name, [image.label for image in shown], before, after))
    size = os.path.getsize(path) / os.path.getsize(quantized)
    notes.append(f'int8: the file is {size:.1f} times smaller.')
    _, seconds = run_apart('onnx', quantized, [inputs[0][None]])
    notes.append(f'int8: {1000 * seconds:.1f} ms an image.')
    os.replace(quantized, path)
    return notes


def _nearest(
    path: Path, ranging: Sequence[np.ndarray], choosing: Sequence[np.ndarray], any_number: bool
) -> dict[str, tuple[Path, float]]:
    """Quantise with each way to take ranges.

    Args:
        path: The file in float32.
        ranging: Inputs that ranges are taken from.
        choosing: Inputs to compare with the float network.
        any_number: Whether the file takes several at a time.

    Returns:
        Key of :data:`RANGES` -> its file, and the mean difference of a probability.
    """
    expected = _probabilities(path, choosing, any_number)
    found = {}
    for number, (name, options) in enumerate(RANGES.items()):
        quantized = path.with_name(f'int8_{number}.{path.name}')
        _quantize(path, quantized, ranging, **options)
        apart = np.abs(_probabilities(quantized, choosing, any_number) - expected).mean()
        found[name] = quantized, float(apart)
    return found


def _quantize(
    path: Path, quantized: Path, inputs: Sequence[np.ndarray], calibrate_method: str, **more: Any
) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __len__(self) -> int:
            return len(inputs)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(inputs[start_index:end_index])

        def get_next(self) -> dict | None:
            one = next(self.left, None)
            return None if one is None else {INPUT: one[None]}

    logging.disable(logging.WARNING)  # advice on options that change nothing here
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantize_static(
                str(path),
                str(quantized),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # The products of 8-bit numbers overflow on CPUs without VNNI, if weights use all
                # bits.
                reduce_range=True,
                op_types_to_quantize=list(QUANTIZED),
                nodes_to_exclude=_before_the_network(path),
                calibrate_method=CalibrationMethod[calibrate_method],
                # One image at a time: the activations of all take gigabytes.
                extra_options=dict(CalibStridedMinMax=1, **more),
            )
    finally:
        logging.disable(logging.NOTSET)


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


def _probabilities(path: Path, inputs: Iterable[np.ndarray], any_number: bool) -> np.ndarray:
    """Return what a file gives for inputs, (N, K)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get('OMP_NUM_THREADS', 0))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    batches = _batches(iter(inputs), any_number)
    return np.concatenate([session.run(None, {INPUT: batch})[0] for batch in batches])


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
