"""Degraded copies of the source's images, made once for all runs of a climb."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tl_plugin.evaluation.source_reference import degradations, degraded_copies
from tl_plugin.reliability.files import writing_whole

#: Folder in that of the climb; the climb deletes it at its end.
FOLDER_NAME = 'degraded_copies'
#: Larger copies are made by each run for itself: 24 times 100 images of 224 pixels take 361 MB.
MAX_BYTES = 1 << 29


def shared_copies(folder: Path, images: Sequence[Tensor]) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """Give what :func:`~tl_plugin.evaluation.source_reference.degraded_copies` gives, from a file.

    The first run makes the file; its name is a fingerprint of the images, so that a run that sees
    others, of another side say, has a file of its own.

    Args:
        folder: Of the files.
        images: Each (C, H, W), uint8.
    """
    sets = degradations()
    total = len(sets) * sum(image.numel() for image in images)
    if total > MAX_BYTES or len({(image.shape, image.dtype) for image in images}) != 1:
        yield from degraded_copies(images)
        return
    clean = torch.stack(list(images)).contiguous()
    known = f'{sets} {tuple(clean.shape)} {clean.dtype}'.encode()
    path = folder / f'{hashlib.sha256(known + clean.numpy().tobytes()).hexdigest()[:32]}.npy'
    if not path.is_file():
        with writing_whole(path) as temporary:
            shape = (len(sets), *clean.shape)
            file = np.lib.format.open_memmap(temporary, 'w+', np.uint8, shape)
            for row, (_, copies) in zip(file, degraded_copies(images)):
                row[:] = torch.stack(list(copies)).numpy()
            file.flush()
    for name, row in zip(sets, np.load(path, mmap_mode='r')):
        yield name, torch.from_numpy(np.array(row)).unbind()
