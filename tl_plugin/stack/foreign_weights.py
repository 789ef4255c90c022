"""Find the weights in checkpoints of other programs, and extract them."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

StateDict = dict[str, Tensor]

#: Where training programs put the weights inside a checkpoint, the averaged ones first.
WEIGHT_KEYS = (
    'state_dict_ema',
    'model_ema',
    'ema_state_dict',
    'ema_model',
    'ema',
    'params_ema',
    'teacher',
    'target_encoder',
    'state_dict',
    'model_state_dict',
    'model_state',
    'model',
    'module',
    'network',
    'net',
    'params',
    'weights',
    'encoder',
    'backbone',
    'student',
)


class Weights(NamedTuple):
    """Weights that were found in a checkpoint.

    Args:
        state: The tensors by name; empty if there are none.
        key: Where they lay, 'model.state_dict' for instance; '' for the checkpoint itself.
        others: Where other weights lie in it.
    """

    state: StateDict
    key: str
    others: tuple[str, ...] = ()


def find_weights(content: Any, key: str | None = None) -> Weights:
    """Find the weights in a checkpoint of any training program.

    Args:
        content: What was read.
        key: Where they lie. Defaults to None: where :data:`WEIGHT_KEYS` says, averaged weights
            before others.

    Raises:
        KeyError: If there is nothing under ``key``.
    """
    if isinstance(content, nn.Module):
        return Weights(content.state_dict(), '')
    if not isinstance(content, dict):
        return Weights({}, '')
    if key:
        first, _, rest = key.partition('.')
        return find_weights(content[first], rest or None)._replace(key=key)
    keys = list(WEIGHT_KEYS)
    meta = content.get('meta')
    if isinstance(meta, dict) and 'mmengine_version' in meta:
        # mmengine's EMAHook puts the averaged weights here, and the others into ema_state_dict.
        keys.sort(key=lambda name: name != 'state_dict')
    inner = {name: find_weights(content[name]) for name in keys if name in content}
    found = {name: weights for name, weights in inner.items() if weights.state}
    if not found:
        return Weights({n: v for n, v in content.items() if _is_weight(n, v)}, '')
    chosen = next(iter(found))
    where = f'{chosen}.{found[chosen].key}' if found[chosen].key else chosen
    inside = tuple(f'{chosen}.{name}' for name in found[chosen].others)
    return Weights(found[chosen].state, where, (*inside, *(n for n in found if n != chosen)))


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def extract_weights(
    source: str | Path,
    target: str | Path,
    key: str | None = None,
    prefix: str = '',
    trusted: Sequence[str] = (),
) -> None:
    """Write the weights of a checkpoint to a file that mmengine and the backbones load.

    Args:
        source: The checkpoint: of any training program, a pickled model, or TorchScript.
        target: The file to write, ``dict(state_dict=...)``.
        key: Where in the checkpoint they lie. Defaults to None: found by itself.
        prefix: What their names begin with; it is removed, and other tensors are left out.
            Defaults to ''.
        trusted: Full names of what the checkpoint may use besides data. They are imported, and may
            be called with what the file says: name them only for a file whose origin you trust.
            Defaults to ().

    Raises:
        ValueError: If no weights are found.
    """
    from .safe_loading import load_safely

    if is_torchscript(source):
        state = torch.jit.load(str(source), map_location='cpu').state_dict()
    else:
        content = load_safely(source, trusted=[(_named(name), name) for name in trusted])
        state = find_weights(content, key).state
    state = {
        name[len(prefix) :]: value.detach().clone()
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
    if not state:
        raise ValueError(
            f'{source} holds no weights{f" under {key}" if key else ""}'
            f'{f" that begin with {prefix!r}" if prefix else ""}'
        )
    torch.save(dict(state_dict=state), target)
    print_log(f'Wrote {len(state)} tensors to {target}.', logger='current')


def extraction_command(path: str | Path, **options: Any) -> str:
    """Say how to call :func:`extract_weights` on the command line.

    Args:
        path: The checkpoint.
        **options: ``key``, ``prefix`` and ``trusted``, as needed.
    """
    stem = re.sub(r'(\.(pth|pt|ckpt|tar|bin|pkl|th))+$', '', Path(path).name)
    target = Path(path).with_name(f'{stem}_weights.pth')
    arguments = [_literal(str(path)), _literal(str(target))]
    arguments += [f'{name}={_literal(value)}' for name, value in options.items()]
    code = f'from {__name__} import extract_weights; extract_weights({", ".join(arguments)})'
    return f'{shlex.quote(sys.executable)} -c {shlex.quote(code)}'


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def is_torchscript(path: str | Path) -> bool:
    """Return whether a file is a program of ``torch.jit``.

    Args:
        path: A local file.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def _named(name: str) -> Any:
    """Import an object by its full name."""
    parts = name.split('.')
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module('.'.join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(f'{name} is in no module that can be imported here')
