"""Features on the disk: a folder that is either whole or not there, mapped into memory."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tl_plugin.reliability.files import write_json

_META = 'features.json'
_LABELS = 'labels.pth'
_PARTIAL = '.{key}.{host}.{pid}.partial'


class Leaf(NamedTuple):
    """One tensor of each image.

    Args:
        shape: Of one image.
        dtype: As torch calls it: 'float32'.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Size of one image's tensor in bytes."""
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize

    @classmethod
    def of(cls, batch: Tensor) -> Leaf:
        """Describe the tensors of a batch.

        >>> Leaf.of(torch.zeros(3, 1280))
        Leaf(shape=(1280,), dtype='float32')
        """
        return cls(tuple(batch.shape[1:]), str(batch.dtype).removeprefix('torch.'))


class FeatureStore:
    """A finished cache, mapped into memory: rows are read from the disk when they are asked for.

    Args:
        folder: Written by :class:`FeatureWriter`.

    Raises:
        ValueError: If it isn't whole.

    Attributes:
        key: What it depends on, by kind.
        leaves: (rows, ...) each.
        labels: Class indices of each row, (number,) each.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        try:
            meta = json.loads((folder / _META).read_text(encoding='utf-8'))
            saved = torch.load(folder / _LABELS, map_location='cpu', weights_only=True)
            layout = [Leaf(tuple(shape), dtype) for shape, dtype in meta['leaves']]
            sizes = [(folder / f'{i}.bin').stat().st_size for i in range(len(layout))]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f'{folder} is not a whole feature cache: {error}') from error
        rows = meta['rows']
        if sizes != [rows * leaf.row_bytes for leaf in layout]:
            raise ValueError(f'{folder} is not a whole feature cache: files have {sizes} bytes')
        self.key: dict[str, str] = meta['key']
        self.leaves = []
        for number, (shape, dtype) in enumerate(layout):
            # Private: writing into it by mistake changes a copy in this process alone.
            flat = torch.from_file(
                str(folder / f'{number}.bin'),
                shared=False,
                size=rows * torch.Size(shape).numel(),
                dtype=getattr(torch, dtype),
            )
            self.leaves.append(flat.view(rows, *shape))
        self.labels: tuple[Tensor, ...] = saved['labels'].split(saved['lengths'].tolist())

    def __len__(self) -> int:
        return len(self.leaves[0])


class FeatureWriter:
    """Writes a cache into a folder of its own; :meth:`finish` moves it to its place.

    Several processes may write rows: one calls :meth:`create` and :meth:`finish`, all others wait
    meanwhile.

    Args:
        root: The folder of all caches.
        key: What the features depend on, by kind.
        name: Of the cache's folder.
        rows: How many there will be.
        layout: Of the features.
    """

    def __init__(
        self, root: str | Path, key: dict[str, str], name: str, rows: int, layout: Sequence[Leaf]
    ) -> None:
        self.root, self.key, self.rows, self.layout = Path(root), key, rows, list(layout)
        self.place = self.root / name
        host = socket.gethostname()
        self.folder = self.root / _PARTIAL.format(key=name, host=host, pid=os.getpid())
        self.nbytes = rows * sum(leaf.row_bytes for leaf in self.layout)

    def create(self) -> Path:
        """Reserve the space on the disk.

        Returns:
            The folder to write into, for other processes.

        Raises:
            OSError: If there is not enough space.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.root)
        free = shutil.disk_usage(self.root).free
        if self.nbytes > free:
            raise OSError(
                f'the features of {self.rows:,} images need {megabytes(self.nbytes)} in '
                f'{self.root}, which has {megabytes(free)} left: set train_cfg.cache_dir to '
                'another disk, halve them by train_cfg.feature_dtype="float16", take fewer views, '
                'or add a neck that pools the maps'
            )
        self.folder.mkdir(parents=True)
        for number, leaf in enumerate(self.layout):
            with (self.folder / f'{number}.bin').open('wb') as file:
                size = self.rows * leaf.row_bytes
                if hasattr(os, 'posix_fallocate') and size:
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        return self.folder

    def write(self, start: int, features: Sequence[Tensor]) -> None:
        """Write some rows.

        Args:
            start: The number of the first one.
            features: A batch of each leaf.

        Raises:
            ValueError: If they are not of the layout.
            OSError: If the disk refuses.
        """
        if [Leaf.of(batch) for batch in features] != self.layout:
            raise ValueError(
                f'features are {[Leaf.of(batch) for batch in features]} and were {self.layout}: '
                'images must all have one size, see Resize or Crop in the pipeline'
            )
        for number, batch in enumerate(features):
            with (self.folder / f'{number}.bin').open('r+b') as file:
                file.seek(start * self.layout[number].row_bytes)
                file.write(batch.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def flush(self) -> None:
        """Bring what this process wrote to the disk."""
        for number in range(len(self.layout)):
            with (self.folder / f'{number}.bin').open('rb') as file:
                os.fsync(file.fileno())

    def finish(self, labels: Sequence[Tensor]) -> None:
        """Move the cache to its place, whole.

        Args:
            labels: Class indices of each row, (number,) each.
        """
        self.flush()
        with (self.folder / _LABELS).open('wb') as file:
            lengths = torch.tensor([len(row) for row in labels])
            torch.save({'labels': torch.cat(list(labels)), 'lengths': lengths}, file)
            file.flush()
            os.fsync(file.fileno())
        leaves = [list(leaf) for leaf in self.layout]
        write_json(self.folder / _META, dict(key=self.key, rows=self.rows, leaves=leaves))
        if self.place.exists():
            shutil.rmtree(self.place)  # damaged, or it would have been used
        os.replace(self.folder, self.place)

    def abandon(self) -> None:
        """Delete what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def known_caches(root: str | Path) -> dict[str, dict[str, str]]:
    """Read the keys of all whole caches in a folder, by name."""
    found = {}
    for path in sorted(Path(root).glob(f'[!.]*/{_META}')):
        try:
            found[path.parent.name] = json.loads(path.read_text(encoding='utf-8'))['key']
        except (OSError, ValueError, KeyError):
            continue  # damaged
    return found


def megabytes(size: int) -> str:
    """Write a size in MB.

    >>> megabytes(8_550_400)
    '8.6 MB'
    """
    return f'{size / 1e6:,.1f} MB'


def _remove_abandoned(root: Path) -> None:
    """Delete what processes of this machine that have ended left unfinished."""
    for path in root.glob(_PARTIAL.format(key='*', host=socket.gethostname(), pid='*')):
        try:
            os.kill(int(path.name.split('.')[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            continue  # it runs, or isn't ours
