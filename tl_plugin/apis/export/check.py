"""Compare a written file with the model that it was written from, on real images."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .images import Shown
from .network import Network, Reference
from .run_file import REPEATS

#: Largest difference of a probability that is taken for rounding, by bits of the network.
TOLERANCE = {32: 1e-4, 16: 2e-2}
RUNNER = Path(__file__).with_name('run_file.py')


class DisagreementError(RuntimeError):
    """An exported file that doesn't predict what the checkpoint does."""


@dataclass(frozen=True)
class Agreement:
    """How far a file's predictions are from those of the checkpoint.

    Args:
        images: Domain -> number of images.
        difference: Domain -> largest difference of a probability between the file, its network in
            torch and the checkpoint, pairs of them given the same input.
        same_class: Domain -> images whose class is the same as that of the checkpoint under its own
            pipeline.
        pipeline_difference: Domain -> largest difference of a probability from the checkpoint under
            its own pipeline: what other pixels of a resized image cost.
        pixels: Domain -> share of the network's input values that differ from the pipeline's.
        milliseconds: That an image takes in the file, on a CPU.
        torch_milliseconds: That it takes in torch.
    """

    images: dict[str, int]
    difference: dict[str, float]
    same_class: dict[str, int]
    pipeline_difference: dict[str, float]
    pixels: dict[str, float]
    milliseconds: float
    torch_milliseconds: float

    def lines(self) -> list[str]:
        """Return it in sentences, one a domain and one on speed."""
        found = []
        for name, count in self.images.items():
            pixels = self.pixels[name]
            shown = 'the same pixels' if not pixels else f'{100 * pixels:.2g}% of values differ'
            largest, piped = self.difference[name], self.pipeline_difference[name]
            found.append(
                f'{name}: {count} images, {self.same_class[name]} with the class that the '
                f'checkpoint gives; largest difference of a probability '
                f'{largest:.1e}, with the pipeline {piped:.1e} ({shown})'
            )
        found.append(
            f'speed: {self.milliseconds:.1f} ms an image, {self.torch_milliseconds:.1f} ms in torch'
            f' ({torch.get_num_threads()} threads)'
        )
        return found

    def to_json(self) -> dict:
        """Return plain values."""
        return asdict(self)


def run_apart(format: str, path: Path, batches: Sequence[np.ndarray]) -> tuple[list, float]:
    """Run an exported file in a process that can import neither mmpretrain nor tl_plugin.

    Args:
        format: See :func:`tl_plugin.apis.export.export_model`.
        path: The file or folder.
        batches: Its inputs.

    Returns:
        The outputs, and the seconds that one image takes.

    Raises:
        DisagreementError: If it fails there.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, 'in.npz'), Path(folder, 'out.npz')
        np.savez(given, **{f'batch_{number}': batch for number, batch in enumerate(batches)})
        # -I: no PYTHONPATH, no current folder.
        command = [sys.executable, '-I', '-W', 'ignore', str(RUNNER), format, str(path)]
        environment = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())}
        done = subprocess.run(
            [*command, str(given), str(found)], capture_output=True, text=True, env=environment
        )
        if done.returncode or not found.is_file():
            last = (done.stderr.strip().splitlines() or ['no message'])[-1]
            raise DisagreementError(
                f'the written file does not run in a process of its own: {last}'
            )
        with np.load(found) as content:
            outputs = [content[f'batch_{number}'] for number in range(len(batches))]
            return outputs, float(content['seconds'])


def input_batches(inputs: Sequence[np.ndarray], any_number: bool) -> list[np.ndarray]:
    """Put inputs into batches: single ones, and those of one shape together where that is allowed.

    Args:
        inputs: One an image.
        any_number: Whether a batch may have several.

    Returns:
        Batches that together hold the inputs in order.
    """
    batches: list[list[np.ndarray]] = []
    for number, one in enumerate(inputs):
        # The first one alone, then as many as have one shape.
        follows = number > 1 and batches[-1][-1].shape == one.shape and any_number
        if follows:
            batches[-1].append(one)
        else:
            batches.append([one])
    return [np.stack(batch) for batch in batches]


@torch.no_grad()
def compare(
    format: str,
    path: Path,
    network: Network,
    reference: Reference,
    shown: Mapping[str, Sequence[Shown]],
    raw: bool,
    any_number: bool = True,
    run: Callable[..., tuple[list, float]] = run_apart,
) -> Agreement:
    """Compare a file with a network in torch and with the checkpoint.

    Args:
        format: See :func:`tl_plugin.apis.export.export_model`.
        path: The file.
        network: That was written.
        reference: The checkpoint.
        shown: Domain -> images.
        raw: Whether the file takes images as they are decoded, else what the pipeline and the data
            preprocessor give.
        any_number: Whether it takes several images at a time.
        run: From format, file and batches to outputs and seconds. Defaults to :func:`run_apart`.
    """
    domains = [name for name, images in shown.items() for _ in images]
    images = [image for each in shown.values() for image in each]
    inputs = [image.pixels if raw else _preprocessed(reference, image) for image in images]
    batches = input_batches(inputs, any_number)
    outputs, seconds = run(format, path, batches)
    found = np.concatenate(outputs)
    ours, expected, apart, pixels = [], [], [], []
    for image, one in zip(images, inputs):
        pipeline = _preprocessed(reference, image)
        ours.append(network(torch.from_numpy(one)[None])[0].numpy())
        expected.append(reference(image.inputs[None])[0].numpy())
        apart.append(network.classify(torch.from_numpy(pipeline)[None])[0].numpy() - expected[-1])
        pixels.append(_differing(network, one, pipeline) if raw else 0.0)
    ours, expected = np.stack(ours), np.stack(expected)
    if found.shape != expected.shape:
        raise DisagreementError(
            f'the file gives probabilities of the shape {found.shape}, the checkpoint '
            f'{expected.shape}'
        )
    difference = np.maximum(np.abs(found - ours), np.abs(np.stack(apart))).max(axis=1)

    def by_domain(values: Sequence, reduce: Callable) -> dict:
        names = np.array(domains)
        return {name: reduce(np.asarray(values)[names == name]) for name in shown}

    began = time.perf_counter()
    for _ in range(REPEATS):
        network(torch.from_numpy(inputs[0])[None])
    return Agreement(
        images={name: len(each) for name, each in shown.items()},
        difference=by_domain(difference, lambda x: float(_largest(x))),
        same_class=by_domain(found.argmax(1) == expected.argmax(1), lambda x: int(x.sum())),
        pipeline_difference=by_domain(
            np.abs(found - expected).max(axis=1), lambda x: float(_largest(x))
        ),
        pixels=by_domain(pixels, lambda x: float(x.mean())),
        milliseconds=1000 * seconds,
        torch_milliseconds=1000 * (time.perf_counter() - began) / REPEATS,
    )


def _largest(values: np.ndarray) -> float:
    """Return the largest, NaN if one is: a comparison with it would be False."""
    return np.nan if np.isnan(values).any() else values.max()


def _preprocessed(reference: Reference, image: Shown) -> np.ndarray:
    return reference.preprocess(image.inputs[None])[0].numpy()


def _differing(network: Network, pixels: np.ndarray, expected: np.ndarray) -> float:
    ours = network.preprocessing(torch.from_numpy(pixels)[None])[0].numpy()
    return float((ours != expected).mean())


def check_agreement(agreement: Agreement, bits: int = 32) -> None:
    """Refuse a file that predicts something else than the network that it was written from.

    Args:
        agreement: Of the file.
        bits: Of the network's numbers. Defaults to 32.

    Raises:
        DisagreementError: If a probability differs by more than :data:`TOLERANCE`.
    """
    worst = max(agreement.difference, key=lambda name: _or_infinite(agreement.difference[name]))
    difference, most = _or_infinite(agreement.difference[worst]), TOLERANCE[bits]
    if difference > most:
        raise DisagreementError(
            f'the exported file predicts something else than the checkpoint: on images of {worst} '
            f'a probability differs by {difference:.1e}, and {most:.0e} is the most that rounding '
            f'in float{bits} explains. Nothing was written; try another --format'
        )


def _or_infinite(value: float) -> float:
    return float('inf') if np.isnan(value) else value
