"""Find and verify checkpoints; keep the state of hooks in them.

A hook's state lies under ``hook_msgs``: mmpretrain's ``publish_model.py`` deletes this key by name,
and mmengine's ``published_keys`` keeps nothing that it doesn't list. A key of its own beside
``state_dict`` would be published, with the pseudo-labels of all target images, for example.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from tl_plugin.stack.foreign_weights import extraction_command, find_weights
from tl_plugin.stack.options import type_name
from tl_plugin.stack.safe_loading import BrokenCheckpointError, load_safely

POINTER = 'last_checkpoint'
_HOOK_STATES = 'hook_msgs'
#: The adapters of LoRA alone, which a run writes beside its checkpoints.
ADAPTERS = 'adapters.pth'
_IMAGE_SUFFIXES = (
    '.bmp',
    '.gif',
    '.jpeg',
    '.jpg',
    '.pgm',
    '.png',
    '.ppm',
    '.tif',
    '.tiff',
    '.webp',
)


def resumes(runner: Any) -> bool:
    """Return whether a runner continues an interrupted run, not just starts from its weights."""
    return bool(runner._resume)


def save_hook_state(checkpoint: dict, name: str, state: Any) -> None:
    """Put the state of a hook into a checkpoint.

    Args:
        checkpoint: What ``before_save_checkpoint`` gets.
        name: The hook's own name in it.
        state: Tensors and plain data.
    """
    checkpoint.setdefault(_HOOK_STATES, {})[name] = state


def saved_hook_state(checkpoint: dict, name: str) -> Any:
    """Return the state of a hook that a checkpoint holds, None where it holds none.

    Args:
        checkpoint: What ``after_load_checkpoint`` gets, perhaps a bare state dict; not changed.
        name: The hook's own name in it.
    """
    states = checkpoint.get(_HOOK_STATES)
    return states.get(name) if isinstance(states, dict) else None


def config_without_images(cfg: Config) -> Config:
    """Return a config without single images and their labels, as a checkpoint may be published.

    Corrected labels (``CorrectedLabels.changes``), the few labelled target images
    (``data_preprocessor.labelled_target``) and any other list or table of image files are emptied.
    The config that a run writes into its folder keeps them.

    Args:
        cfg: A run's config. It isn't changed.

    Returns:
        The same config, if it lists none.
    """
    before = cfg.to_dict()
    found = _without_images(before)
    return cfg if found == before else Config(found, format_python_code=False)


def _without_images(value: Any) -> Any:
    if isinstance(value, dict):
        if any(map(_is_image, value)):
            return {}
        # In memory an image is identified by its place, and no name of a file gives it away.
        lists = dict(labelled_target=None)
        if type_name(value) == 'CorrectedLabels':
            lists['changes'] = []
        value = {
            key: lists[key]
            if key in lists and isinstance(inner, (list, tuple))
            else _without_images(inner)
            for key, inner in value.items()
        }
    elif type(value) in (list, tuple):
        value = type(value)(() if any(map(_is_row, value)) else map(_without_images, value))
    return value


def _is_row(value: Any) -> bool:
    """Return whether an item of a list is an image's name, perhaps with what is said about it."""
    if isinstance(value, dict):
        value = () if 'type' in value else value.values()
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _is_image(value)
    return any(map(_is_image, value))


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(_IMAGE_SUFFIXES)


def newest_whole_checkpoint(work_dir: str | Path, resumable: bool = True) -> Path | None:
    """Find the newest undamaged checkpoint of a run; name the damaged ones in the log.

    Args:
        work_dir: The run's folder. The file that ``last_checkpoint`` in it points to, and the files
            beside that, are considered as well.
        resumable: Require that the run can be resumed from it; otherwise weights are enough.
            Defaults to True.

    Returns:
        Its path, or None. Checkpoints named ``best_*`` are left out: labels may have chosen them,
        and they hold no optimizer; so is a file of adapters, which is no whole network.
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
    """Check that a run can be resumed from a checkpoint.

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
    """Return the tensors that mmengine would load from a checkpoint, by name.

    Args:
        content: The content of the file.
        path: The file, for messages.

    Raises:
        BrokenCheckpointError: If there are none. If they lie under another key, the message has
            the command that moves them to where mmengine looks.
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


def checkpoint_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read a classifier's weights and the ``meta`` of its checkpoint.

    Args:
        path: A checkpoint of mmengine, on disk or at any address that it reads.

    Returns:
        The ``state_dict`` and the ``meta``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no weights.
    """
    if '://' not in str(path) and not Path(path).is_file():
        raise FileNotFoundError(f'no checkpoint at {Path(path).absolute()}')
    checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    if 'state_dict' not in checkpoint:
        raise ValueError(
            f'{path} holds no state_dict but {", ".join(map(str, list(checkpoint)[:5]))}: expected '
            'a checkpoint of mmengine'
        )
    return checkpoint['state_dict'], checkpoint.get('meta', {})


def read_whole(path: str | Path) -> Any:
    """Read a checkpoint and verify every byte; tensors of a zip archive are mapped, not copied.

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
    except Exception as error:  # damaged bytes make zipfile and torch raise anything
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
    regular = [
        path
        for path in paths.values()
        if not path.name.startswith('best_') and path.name != ADAPTERS
    ]
    return sorted(regular, key=_age, reverse=True)


def _age(path: Path) -> tuple[int, list[int]]:
    # Files that were copied may all be of one time.
    return path.stat().st_mtime_ns, [int(number) for number in re.findall(r'\d+', path.name)]
