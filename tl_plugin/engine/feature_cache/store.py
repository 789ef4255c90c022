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

from tl_plugin.reliability.files import write_whole

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
        """Size of one image's."""
        return torch.Size(self.shape).numel() * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same, as torch has it."""
        return getattr(torch, self.dtype)

    @classmethod
    def of(cls, batch: Tensor) -> Leaf:
        """That of a batch.

        >>> Leaf.of(torch.zeros(3, 1280))
        Leaf(shape=(1280,), dtype='float32')
        """
        return cls(tuple(batch.shape[1:]), str(batch.dtype).removeprefix('torch.'))


class FeatureStore:
    """A finished cache, mapped into memory: rows are read from the disk as they are asked for.

    Args:
        folder: Out of :class:`FeatureWriter`.

    Raises:
        ValueError: If it isn't whole.

    Attributes:
        key: What it depends on, part by part.
        leaves: (rows, ...) each.
        labels: All labels, one after the other.
        lengths: How many labels each row has; None if one each.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        try:
            meta = json.loads((folder / _META).read_text(encoding='utf-8'))
            saved = torch.load(folder / _LABELS, map_location='cpu', weights_only=True)
            layout = [Leaf(tuple(shape), dtype) for shape, dtype in meta['leaves']]
            sizes = [(folder / _file(i)).stat().st_size for i in range(len(layout))]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f'{folder} is no whole feature cache: {error}') from error
        self.key: dict[str, str] = meta['key']
        rows = meta['rows']
        if sizes != [rows * leaf.row_bytes for leaf in layout]:
            raise ValueError(f'{folder} is no whole feature cache: its files have {sizes} bytes')
        self.leaves = [_mapped(folder / _file(i), rows, leaf) for i, leaf in enumerate(layout)]
        self.labels: Tensor = saved['labels']
        self.lengths: Tensor | None = saved['lengths']

    def __len__(self) -> int:
        return len(self.leaves[0])


class FeatureWriter:
    """Writes a cache beside its place; :meth:`finish` puts it there.

    Several processes may write, each rows of its own: one calls :meth:`create` and
    :meth:`finish`, all others wait in between.

    Args:
        root: The folder of all caches.
        key: What the features depend on, part by part.
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

    @property
    def nbytes(self) -> int:
        """How large all features are."""
        return self.rows * sum(leaf.row_bytes for leaf in self.layout)

    def create(self) -> Path:
        """Takes the room on the disk.

        Returns:
            The folder to write into, for other processes.

        Raises:
            OSError: If there is not enough room.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.root)
        free = shutil.disk_usage(self.root).free
        if self.nbytes > free:
            raise OSError(
                f'the features of {self.rows:,} images need {megabytes(self.nbytes)} in '
                f'{self.root}, which has {megabytes(free)} left: point train_cfg.cache_dir to '
                'another disk, halve them by train_cfg.feature_dtype="float16", take fewer views, '
                'or freeze up to a layer whose output is smaller'
            )
        self.folder.mkdir(parents=True)
        for number, leaf in enumerate(self.layout):
            with (self.folder / _file(number)).open('wb') as file:
                _reserve(file.fileno(), self.rows * leaf.row_bytes)
        return self.folder

    def write(self, start: int, features: Sequence[Tensor]) -> None:
        """Writes some rows.

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
            data = batch.contiguous().reshape(-1).view(torch.uint8).numpy().data
            handle = os.open(self.folder / _file(number), os.O_WRONLY)
            try:
                _write_at(handle, data, start * self.layout[number].row_bytes)
            finally:
                os.close(handle)

    def flush(self) -> None:
        """Brings what this process wrote to the disk."""
        for number in range(len(self.layout)):
            _sync(self.folder / _file(number))

    def finish(self, labels: Tensor, lengths: Tensor | None) -> None:
        """Puts the cache in its place, whole.

        Args:
            labels: All labels, one after the other.
            lengths: How many each row has; None if one each.
        """
        self.flush()
        with (self.folder / _LABELS).open('wb') as file:
            torch.save({'labels': labels, 'lengths': lengths}, file)
            file.flush()
            os.fsync(file.fileno())
        meta = dict(key=self.key, rows=self.rows, leaves=[list(leaf) for leaf in self.layout])
        write_whole(self.folder / _META, json.dumps(meta, indent=1).encode())
        if self.place.exists():
            shutil.rmtree(self.place)  # damaged, or it would have been used
        os.replace(self.folder, self.place)
        _sync(self.root)

    def abandon(self) -> None:
        """Deletes what was written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def known_caches(root: str | Path) -> dict[str, dict[str, str]]:
    """The keys of all whole caches in a folder, by name."""
    found = {}
    for path in sorted(Path(root).glob(f'*/{_META}')):
        if not path.parent.name.startswith('.'):
            try:
                found[path.parent.name] = json.loads(path.read_text(encoding='utf-8'))['key']
            except (OSError, ValueError, KeyError):
                continue  # damaged: not whole
    return found


def megabytes(size: int) -> str:
    """A size for people.

    >>> megabytes(8_550_400)
    '8.6 MB'
    """
    return f'{size / 1e6:,.1f} MB'


def _file(number: int) -> str:
    return f'{number}.bin'


def _mapped(path: Path, rows: int, leaf: Leaf) -> Tensor:
    count = rows * torch.Size(leaf.shape).numel()
    # Private: what writes into it by mistake changes its own copy alone.
    flat = torch.from_file(str(path), shared=False, size=count, dtype=leaf.torch_dtype)
    return flat.view(rows, *leaf.shape)


def _reserve(handle: int, size: int) -> None:
    if hasattr(os, 'posix_fallocate') and size:
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)


def _write_at(handle: int, data: memoryview, offset: int) -> None:
    while len(data):
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(root: Path) -> None:
    """Deletes what processes of this machine that are gone have left unfinished."""
    host = socket.gethostname()
    for path in root.glob(_PARTIAL.format(key='*', host=host, pid='*')):
        pid = path.name.split('.')[-2]
        if pid.isdigit() and not _runs(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
