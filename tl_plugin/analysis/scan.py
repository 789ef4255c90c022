"""Looks at every image of a data set once, in several processes and bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log

from tl_plugin.datasets.image_quality import measure_quality
from tl_plugin.intake.images import ImageItem

from .reading import Reading, oddities_of_pixels, read_image

CHUNK = 32
#: Side of the grey thumbnail that near duplicates are compared by.
THUMBNAIL = 16


class ImageRecord(NamedTuple):
    """What one look at an image gave.

    Args:
        faults: Kinds out of ``reading.FAULTS``.
        detail: What the decoder said.
        format: Of the file, '' if unknown.
        quality: Of ``measure_quality``, and ``bits_per_pixel`` of JPEG files; None if the image
            can't be read.
        digest: Equal for equal pixels; '' if the image can't be read.
        hash: 64 bits that are close for images that look alike, packed into 8 bytes.
        thumbnail: Grey, :data:`THUMBNAIL` a side, as bytes.
    """

    faults: tuple[str, ...]
    detail: str = ''
    format: str = ''
    quality: dict[str, float] | None = None
    digest: str = ''
    hash: bytes = b''
    thumbnail: bytes = b''

    @property
    def readable(self) -> bool:
        """Whether there is an image to look at."""
        return self.quality is not None


def scan(
    items: Sequence[ImageItem],
    processes: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[ImageRecord]:
    """Read, measure and hash images.

    A file that kills its reader costs that reader, is named and left out; the others go on.

    Args:
        items: The images.
        processes: How many work at once; 1 works in this one. None takes all cores, 8 at most.
        advance: Called with the number of images that were finished since the last call.

    Returns:
        One record an image, in the order of ``items``.

    Raises:
        ModuleNotFoundError: If ImageHash isn't installed.
    """
    check_imagehash()
    processes = processes or min(os.cpu_count() or 1, 8)
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    if processes == 1 or len(chunks) < 2:
        runs: Iterable = map(look_at_all, chunks)
    else:
        runs = _in_parallel(chunks, processes)
    records: list[ImageRecord] = []
    for found in runs:
        records += found
        advance(len(found))
    return records


def look_at_all(items: Sequence[ImageItem]) -> list[ImageRecord]:
    """Look at some images, one after the other."""
    return [look_at(item) for item in items]


def look_at(item: ImageItem) -> ImageRecord:
    """Look at one image."""
    reading = read_item(item)
    if reading.image is None:
        return ImageRecord(reading.faults, reading.detail, reading.format)
    image = reading.image
    quality = measure_quality(image)
    # Other formats lose nothing by small files, or come by with smaller ones.
    if reading.format in ('JPEG', 'MPO'):
        quality['bits_per_pixel'] = 8 * reading.num_bytes / (image.shape[0] * image.shape[1])
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image))
    return ImageRecord(
        reading.faults,
        reading.detail,
        reading.format,
        quality,
        digest.hexdigest(),
        *_looks(image),
    )


def read_item(item: ImageItem) -> Reading:
    """Read an image from its file, or take its pixels, as RGB."""
    if item.pixels is None:
        return read_image(item.name)
    pixels = item.pixels
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return Reading(pixels, oddities_of_pixels(pixels))


def check_imagehash() -> None:
    """See to it that perceptual hashes can be taken.

    Raises:
        ModuleNotFoundError: If they can't; says what to install.
    """
    try:
        import imagehash  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'looking for copies among images needs the package ImageHash: '
            'pip install "mmpretrain-tl-plugin[diagnose]", or pip install ImageHash'
        ) from error


def _looks(image: np.ndarray) -> tuple[bytes, bytes]:
    """Hash an image by its low frequencies (pHash), and shrink it."""
    import cv2
    import imagehash
    from PIL import Image

    # Averaged down first: the hash takes the image at 32 x 32 anyway, and Pillow is slower at it.
    side = 4 * 32
    if min(image.shape[:2]) > side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    bits = imagehash.phash(Image.fromarray(grey)).hash
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.packbits(bits).tobytes(), small.tobytes()


def _in_parallel(chunks: Sequence, processes: int) -> Iterator[list[ImageRecord]]:
    """Work on chunks in order; only a few wait in memory at a time."""
    if not _processes_start():
        print_log(
            'Reading images in one process: others could not be started. A script that starts some '
            "needs its work under if __name__ == '__main__'.",
            logger='current',
            level=logging.WARNING,
        )
        yield from map(look_at_all, chunks)
        return
    left = iter(chunks)
    while True:
        started: deque = deque()
        with _pool(processes) as pool:
            try:
                for chunk in itertools.islice(left, 2 * processes):
                    started.append((pool.submit(look_at_all, chunk), chunk))
                while started:
                    yield started[0][0].result()
                    started.popleft()
                    for chunk in itertools.islice(left, 1):
                        started.append((pool.submit(look_at_all, chunk), chunk))
                return
            except BrokenProcessPool:
                # One of those under way killed its process, and the pool died with it.
                suspects = [chunk for _, chunk in started]
        for chunk in suspects:
            yield _look_apart(chunk)


def _look_apart(items: Sequence[ImageItem]) -> list[ImageRecord]:
    """Find the image that kills its reader, by halves."""
    try:
        with _pool(1) as pool:
            return pool.submit(look_at_all, items).result()
    except BrokenProcessPool:
        if len(items) == 1:
            return [ImageRecord(('crashed_reader',))]
    middle = len(items) // 2
    return _look_apart(items[:middle]) + _look_apart(items[middle:])


def _processes_start() -> bool:
    with _pool(1) as pool:
        try:
            return pool.submit(os.getpid).result() > 0
        except BrokenProcessPool:
            return False


def _pool(processes: int) -> ProcessPoolExecutor:
    # Not a fork of this process: OpenCV and torch may hold threads, whose locks a child never gets.
    if 'forkserver' in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__])  # one import for all processes
    else:
        context = multiprocessing.get_context('spawn')
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_quiet_and_alone)


def _quiet_and_alone() -> None:
    import cv2

    cv2.setNumThreads(1)
    # What a decoder says of a file is in its record.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
