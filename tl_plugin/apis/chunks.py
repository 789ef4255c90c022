"""What was predicted so far, in whole files, from which a killed run goes on."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tl_plugin.reliability.files import read_json, remove_leftovers, write_json, write_whole

#: Images of a file at least: what a killed run predicts again.
LEAST = 256


@dataclass
class Chunk:
    """Predictions of some images that follow each other.

    Args:
        start: Number of the first image.
        faults: Why an image couldn't be read, '' where it could, (N,) text.
        labels: The likeliest classes, the first one first, (N, top-k) int32; -1 without an image.
        scores: Their calibrated probabilities, (N, top-k) float32; NaN without an image.
        energy: (N,) float32, see :func:`tl_plugin.functional.free_energy`.
        distance: From what the reference holds, (N,) float32; NaN without a reference.
        sets: Which classes are in the prediction set, packed bits (N, ceil(K / 8)); (N, 0) without
            calibration.
        probabilities: Sums over the images, (K,) float64.
        kept: Numbers of the images in the sample, (S,) int64.
        kept_logits: Of them, (S, K) float32.
        kept_features: Of them, (S, D) float32; (S, 0) of a model without any.
    """

    start: int
    faults: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    energy: np.ndarray
    distance: np.ndarray
    sets: np.ndarray
    probabilities: np.ndarray
    kept: np.ndarray
    kept_logits: np.ndarray
    kept_features: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


class Chunks:
    """A folder of chunks.

    Args:
        folder: Where; made if it isn't there.
        total: Images in all.
        size: Images of a chunk.
        about: What the predictions depend on: images, weights, settings.

    Raises:
        ValueError: If the folder has chunks of other images, weights or settings.
    """

    def __init__(self, folder: Path, total: int, size: int, about: dict) -> None:
        self.folder, self.total, self.size = Path(folder), total, size
        self._about = {**about, 'images': total, 'chunk': size}

    def begin(self) -> None:
        """Make the folder, or check that what it holds belongs to this run; one process does."""
        known = read_json(self.folder / 'about.json')
        if known is None:
            write_json(self.folder / 'about.json', self._about)
        elif known != self._about:
            other = [key for key in self._about if self._about[key] != known.get(key)]
            raise ValueError(
                f'{self.folder} holds an interrupted run with another {", ".join(other)}: repeat '
                'that command to finish it, or delete the folder to start again'
            )
        remove_leftovers(self.folder)

    def numbers(self) -> range:
        """Return the numbers of all chunks."""
        return range(-(-self.total // self.size))

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that aren't there yet."""
        return [number for number in self.numbers() if not self._path(number).is_file()]

    def images(self, number: int) -> range:
        """Return the numbers of the images of a chunk."""
        return range(number * self.size, min((number + 1) * self.size, self.total))

    def write(self, chunk: Chunk) -> None:
        """Write a chunk, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(chunk, field.name) for field in fields(chunk)})
        write_whole(self._path(chunk.start // self.size), buffer.getvalue())

    def __iter__(self) -> Iterator[Chunk]:
        """Read all chunks in order, one at a time."""
        for number in self.numbers():
            with np.load(self._path(number), allow_pickle=False) as found:
                chunk = Chunk(**{field.name: found[field.name] for field in fields(Chunk)})
            chunk.start = int(chunk.start)
            yield chunk

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f'{number:07d}.npz'


def chunk_size(batch_size: int) -> int:
    """Return the images of a chunk: whole batches, so that a resumed run has the same ones.

    Example:
        >>> chunk_size(100), chunk_size(512)
        (300, 512)
    """
    return -(-LEAST // batch_size) * batch_size
