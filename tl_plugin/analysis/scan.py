"""Read, measure and hash every image of a data set, in several processes and bounded memory."""

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
    """What reading and measuring one image gave.

    Args:
        faults: Kinds out of ``reading.FAULTS``.
        detail: The decoder's error.
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
        """Whether the image could be read."""
        return self.quality is not None


def scan(
    items: Sequence[ImageItem],
    processes: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[ImageRecord]:
    """Read, measure and hash images.

    An image whose reading ends the process is recorded as such; the others are read all the same.

    Args:
        items: The images.
        processes: How many work at once; 1 works in this one. None takes all cores, 8 at most.
        advance: Called with the number of images that were finished since the last call.

    Returns:
        One record an image, in the order of ``items``.
    """
    processes = processes or min(os.cpu_count() or 1, 8)
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    if processes == 1 or len(chunks) < 2:
        scanned: Iterable = map(scan_images, chunks)
    else:
        scanned = _in_parallel(chunks, processes)
    records: list[ImageRecord] = []
    for found in scanned:
        records += found
        advance(len(found))
    return records


def scan_images(items: Sequence[ImageItem]) -> list[ImageRecord]:
    """Scan some images, one after the other."""
    return [scan_image(item) for item in items]


def scan_image(item: ImageItem) -> ImageRecord:
    """Read, measure and hash one image."""
    reading = read_item(item)
    if reading.image is None:
        return ImageRecord(reading.faults, reading.detail, reading.format)
    image = reading.image
    quality = measure_quality(image)
    # Other formats are lossless, or need fewer bits for the same quality.
    if reading.format in ('JPEG', 'MPO'):
        quality['bits_per_pixel'] = 8 * reading.num_bytes / (image.shape[0] * image.shape[1])
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image))
    found = reading.faults, reading.detail, reading.format, quality, digest.hexdigest()
    return ImageRecord(*found, *_fingerprint(image))


def read_item(item: ImageItem) -> Reading:
    """Read an image from its file, or take its pixels, as RGB."""
    if item.pixels is None:
        return read_image(item.name)
    pixels = item.pixels
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return Reading(pixels, oddities_of_pixels(pixels))


def _fingerprint(image: np.ndarray) -> tuple[bytes, bytes]:
    """Hash an image by the signs of its low frequencies (pHash), and shrink it."""
    import cv2
    from PIL import Image
    from scipy.fft import dctn

    # Averaged down first: Pillow is slower at it.
    side = 4 * 32
    if min(image.shape[:2]) > side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(small, dtype=np.float64))[:8, :8]
    pixels = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.packbits(low > np.median(low)).tobytes(), pixels.tobytes()


def _in_parallel(chunks: Sequence, processes: int) -> Iterator[list[ImageRecord]]:
    """Scan chunks in order; only a few wait in memory at a time."""
    if not _processes_start():
        print_log(
            'Reading images in one process: others could not be started. A script that starts some '
            "needs its work under if __name__ == '__main__'.",
            logger='current',
            level=logging.WARNING,
        )
        yield from map(scan_images, chunks)
        return
    left = iter(chunks)
    while True:
        started: deque = deque()
        with _pool(processes) as pool:
            try:
                while True:
                    for chunk in itertools.islice(left, 2 * processes - len(started)):
                        started.append((pool.submit(scan_images, chunk), chunk))
                    if not started:
                        return
                    yield started[0][0].result()
                    started.popleft()
            except BrokenProcessPool:
                # One of these chunks ended its process, which broke the pool.
                suspects = [chunk for _, chunk in started]
        for chunk in suspects:
            yield _isolate_crashes(chunk)


def _isolate_crashes(items: Sequence[ImageItem]) -> list[ImageRecord]:
    """Find the images that kill the process which reads them, by halves."""
    try:
        with _pool(1) as pool:
            return pool.submit(scan_images, items).result()
    except BrokenProcessPool:
        if len(items) == 1:
            return [ImageRecord(('crashed_reader',))]
    middle = len(items) // 2
    return _isolate_crashes(items[:middle]) + _isolate_crashes(items[middle:])


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
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_init_worker)


def _init_worker() -> None:
    import cv2

    cv2.setNumThreads(1)
    # The decoder's errors are in the records.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
