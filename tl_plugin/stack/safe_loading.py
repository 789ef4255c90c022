"""Read checkpoints as data only, and explain how to use one that holds more than data."""

from __future__ import annotations

import importlib.util
import os
import pickle
import pickletools
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank

from .foreign_weights import extraction_command, is_torchscript
from .safe_globals import checkpoint_globals

_BUILTIN_DATA = ('set', 'frozenset', 'list', 'dict', 'tuple', 'slice', 'range', 'object')
_STANDARD_DATA = ('collections', 'enum', 'types.SimpleNamespace', 'functools.partial', 'uuid.UUID')
_TORCH_PARTS = ('torch.nn.', 'torch.optim.', 'torch._C._nn.', 'torch.amp.', 'torch.cuda.amp.')


class BrokenCheckpointError(ValueError):
    """A checkpoint that can't be read, or from which no run can go on."""


class RefusedCheckpointError(BrokenCheckpointError, pickle.UnpicklingError):
    """A checkpoint that asks for more than data."""


def load_safely(
    path: str | Path,
    map_location: Any = 'cpu',
    mmap: bool | None = None,
    trusted: list[tuple[Callable, str]] | None = None,
) -> Any:
    """Read a checkpoint of mmengine, or plain data of other programs, and run no code of it.

    Args:
        path: A local file.
        map_location: As in ``torch.load``. Defaults to 'cpu'.
        mmap: As in ``torch.load``. Defaults to None.
        trusted: Other objects that the file may use, with the names it has for them.
            Defaults to None.

    Raises:
        RefusedCheckpointError: If it asks for more; the message says how to get at the weights.
        Exception: Whatever torch raises for damaged files.
    """
    if is_torchscript(path):
        advice = (
            'it is a TorchScript program, more than data. This takes its weights out:\n  '
            + extraction_command(path)
        )
        raise RefusedCheckpointError(f'refused to read {path}: {advice}')
    with checkpoint_globals(trusted):
        try:
            return torch.load(path, map_location=map_location, mmap=mmap, weights_only=True)
        except pickle.UnpicklingError as error:
            names = _asked_for(path)
            text = str(error)
    # torch advises to try again without the protection: its text is left out.
    raise RefusedCheckpointError(f'refused to read {path}: {_advice(path, names, text)}') from None


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a local file for mmengine, in place of its function of this name.

    Args:
        filename: Path of the file.
        map_location: As in ``torch.load``. Defaults to None.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    return load_safely(filename, map_location)


def load_from_url(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> Any:
    """Download a file for mmengine, in place of its ``load_from_http``, which trusts what comes.

    Args:
        filename: URL of the file.
        map_location: As in ``torch.load``. Defaults to None.
        model_dir: Folder of downloads. Defaults to None, that of ``torch.hub``.
        progress: Show a progress bar. Defaults to True.

    Raises:
        RefusedCheckpointError: If it asks for more than data.
        URLError: If it can't be downloaded.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / (Path(urlparse(filename).path).name or 'checkpoint.pth')

    def download() -> None:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            # Into a temporary file, which is renamed at the end.
            torch.hub.download_url_to_file(filename, str(path), progress=progress)

    if get_rank() == 0:
        download()
    barrier()
    # On another machine than the first process.
    download()
    return load_from_local(str(path), map_location)


def _asked_for(path: str | Path) -> list[str]:
    """Name what a file asks for beyond data."""
    try:
        if zipfile.is_zipfile(path):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        names = _globals_of(path)
    except Exception:  # damaged bytes make both raise anything
        return []
    known = torch._weights_only_unpickler
    allowed = {*known._get_allowed_globals(), *known._get_user_allowed_globals()}
    names = {name.replace('__builtin__', 'builtins') for name in names}
    return sorted(names - allowed)


def _globals_of(path: str | Path) -> set[str]:
    """Name what the pickles of a file in the format before torch 1.6 ask for, one after the other.

    That format has torch's magic number, its version, the system and the object; a plain pickle
    ends after the first.
    """
    names = set()
    with open(path, 'rb') as file:
        while file.peek(1) and len(names) < 100:
            try:
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name == 'GLOBAL':
                        names.add('.'.join(argument.split(' ')))
            except ValueError:  # the bytes of the tensors, which follow
                break
    return names


def _advice(path: str | Path, names: list[str], text: str) -> str:
    if not names:
        return 'it is no checkpoint' if 'GLOBAL' not in text else 'it holds more than data'
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    what = f'it asks for {", ".join(names[:5])}{more}, more than data'
    harmful = [name for name in names if not _may_belong_to_a_model(name)]
    if harmful:
        return (
            f'{what}. {", ".join(harmful)} can run anything on this machine and belongs into '
            'no checkpoint: ask whoever made the file for the weights alone, '
            'torch.save(model.state_dict(), PATH)'
        )
    of_a_model = any(name.startswith('torch.nn.modules.') for name in names)
    if of_a_model and not zipfile.is_zipfile(path):
        return (
            f'{what}. It is a pickled model in the format of torch before 1.6, which can not '
            'be taken apart safely: where it was written, save the weights alone, '
            'torch.save(model.state_dict(), PATH)'
        )
    own = [name for name in names if name.startswith('__main__.')]
    if own:
        return (
            f'{what}. {", ".join(own)} is defined in the script that saved the file: save the '
            'weights alone there, torch.save(model.state_dict(), PATH)'
        )
    missing = sorted({top for top in _tops(names) if importlib.util.find_spec(top) is None})
    where = f' where {", ".join(missing)} can be imported' if missing else ''
    return (
        f'{what}. Only if you trust whoever made the file, since this lets it run what it '
        f'asks for, take its weights out{where}, and give the file that this writes:\n  '
        + extraction_command(path, trusted=names)
    )


def _tops(names: Iterable[str]) -> set[str]:
    return {name.split('.')[0] for name in names}


def _may_belong_to_a_model(name: str) -> bool:
    """Return whether a name may belong to a model or its settings, and isn't a way to run code."""
    top = name.split('.')[0]
    if top == 'builtins':
        return name.split('.')[-1] in _BUILTIN_DATA
    if top == 'torch':
        return name.startswith(_TORCH_PARTS)
    if top == 'numpy':
        return False
    return top == '__main__' or name.startswith(_STANDARD_DATA) or not _is_standard(top)


def _is_standard(top: str) -> bool:
    """Return whether a package comes with Python, without importing it."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    if spec.origin in ('built-in', 'frozen', None):
        return spec.origin is not None
    folders = [Path(sysconfig.get_path(key)).resolve() for key in ('stdlib', 'platstdlib')]
    place = Path(spec.origin).resolve()
    inside = any(folder in place.parents for folder in folders)
    return inside and not {'site-packages', 'dist-packages'} & set(place.parts)
