"""Finds the newest checkpoint that can be read, among whatever an interrupted run has left."""

from __future__ import annotations

import logging
import re
import zipfile
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from tl_plugin.stack.foreign_weights import extraction_command, find_weights
from tl_plugin.stack.safe_loading import BrokenCheckpointError, load_safely

POINTER = 'last_checkpoint'


def newest_whole_checkpoint(work_dir: str | Path, resumable: bool = True) -> Path | None:
    """The newest checkpoint of a run's course that is whole.

    Args:
        work_dir: The run's folder. What ``last_checkpoint`` in it points to is looked at as well,
            and so are the files beside that.
        resumable: Whether the run must be able to go on from it; else weights are enough.

    Returns:
        Its path, or None. What is passed over, because it is damaged, is named in the log. The best
        checkpoints are none: labels may have chosen them, and they hold no optimizer.
    """
    pointed = _pointed(Path(work_dir))
    if pointed is not None and pointed.is_dir():
        return pointed  # a sharded checkpoint, written by its own library
    for path in _candidates(Path(work_dir), pointed):
        try:
            (check_resumable if resumable else read_whole)(path)
        except (BrokenCheckpointError, OSError) as error:
            print_log(f'Passed over a checkpoint: {error}', logger='current', level=logging.WARNING)
        else:
            return path
    return None


def check_resumable(path: str | Path) -> None:
    """Checks that a run can go on from a checkpoint.

    Args:
        path: A local file.

    Raises:
        BrokenCheckpointError: If it is damaged, refused, or holds weights alone.
    """
    content = read_whole(path)
    weights_of(content, path)
    meta = content.get('meta')
    places = [meta.get(key) for key in ('epoch', 'iter')] if isinstance(meta, dict) else [None]
    if not all(isinstance(place, int) and place >= 0 for place in places):
        raise BrokenCheckpointError(
            f'{path} does not say at which iteration it was written: it is no checkpoint of a run, '
            'but can be used as load_from'
        )
    if not isinstance(content.get('optimizer'), dict):
        raise BrokenCheckpointError(
            f'{path} holds no optimizer: a run cannot go on from it (save_optimizer=False, or one '
            'of the best), but it can be used as load_from'
        )


def weights_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors that mmengine would load of a checkpoint, by name.

    Args:
        content: What was read.
        path: From where, for messages.

    Raises:
        BrokenCheckpointError: If there are none; if they lie elsewhere, with the command that
            brings them where mmengine looks.
    """
    state = content.get('state_dict', content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise BrokenCheckpointError(
            f'{path} holds no weights: expected a dict of tensors, alone or under state_dict, got '
            f'{type(state).__name__}'
        )
    found = {n: v for n, v in state.items() if isinstance(n, str) and isinstance(v, Tensor)}
    key = '' if found else find_weights(content).key
    if key:
        raise BrokenCheckpointError(
            f'{path} holds its weights under {key!r}, and mmengine loads those under state_dict '
            'alone. This writes them where it looks; give the file that it writes:\n  '
            + extraction_command(path, key=key)
        )
    if not found:
        raise BrokenCheckpointError(
            f'{path} holds no weights: no tensor is among {", ".join(map(str, state)) or "nothing"}'
        )
    return found


def read_whole(path: str | Path) -> Any:
    """Reads a checkpoint without its tensors' data, which is checked on the disk.

    Args:
        path: A local file.

    Raises:
        BrokenCheckpointError: If a byte is missing or changed, or it holds more than data.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise BrokenCheckpointError(f'{path} is damaged: {damaged} has changed on the disk')
        return load_safely(path, mmap=zipped or None)
    except (BrokenCheckpointError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of damaged bytes zipfile and torch make whatever comes
        raise BrokenCheckpointError(f'{path} is not whole, or no checkpoint: {error}') from error


def _pointed(work_dir: Path) -> Path | None:
    try:
        text = (work_dir / POINTER).read_text(encoding='utf-8').strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    path = Path(text)
    # The folder may have been moved since, or the run started from another one.
    return next((p for p in (path, work_dir / path.name) if text and p.exists()), None)


def _candidates(work_dir: Path, pointed: Path | None) -> list[Path]:
    folders = {work_dir, *([pointed.parent] if pointed else [])}
    paths = {path.resolve(): path for folder in folders for path in folder.glob('*.pth')}
    if pointed:
        paths[pointed.resolve()] = pointed
    course = [path for path in paths.values() if not path.name.startswith('best_')]
    return sorted(course, key=_age, reverse=True)


def _age(path: Path) -> tuple[int, list[int]]:
    # Files that were copied may all be of one time.
    return path.stat().st_mtime_ns, [int(number) for number in re.findall(r'\d+', path.name)]
