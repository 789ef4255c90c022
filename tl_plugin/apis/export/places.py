"""Where what is exported is written, and what may lie there before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tl_plugin.reliability.checkpoints import checkpoint_weights
from tl_plugin.reliability.files import read_json
from tl_plugin.stack.messages import short_list

from .graphs import GRAPHS

#: Formats of weights alone, for the libraries of these names.
WEIGHTS = {
    'safetensors': '.safetensors',
    'timm': '',
    'torchvision': '.safetensors',
    'mmpretrain': '',
}
FORMATS = (*GRAPHS, *WEIGHTS)
#: What lies in the folder of a format that is one.
FOLDER_FILES = {
    'timm': ['config.json', 'model.safetensors'],
    'mmpretrain': ['config.py', 'model.pth'],
}
STANDALONE = Path(__file__).with_name('predict_folder.py')


def default_path(checkpoint: str | Path, format: str, precision: str) -> Path:
    """Return where a checkpoint is exported to, beside it."""
    path = Path(checkpoint)
    suffix = '' if precision == 'fp32' else f'_{precision}'
    ending = GRAPHS.get(format) or (WEIGHTS[format] or f'_{format}')
    return path.with_name(f'{path.stem}{suffix}{ending}')


def card_path(target: Path) -> Path:
    """Return where the card of a file lies."""
    return target.with_name(f'{target.stem}.md')


def check_place(target: Path, format: str, card: bool) -> None:
    """Refuse a place where what is written would be of another kind than what is there.

    Raises:
        ValueError: If it is one.
    """
    ending = GRAPHS.get(format) or WEIGHTS[format]
    if ending and (target.is_dir() or target.suffix != ending):
        name = target / f'model{ending}' if target.is_dir() else target.with_suffix(ending)
        raise ValueError(f'{format} is written to a {ending} file, got {target}: give {name}')
    if not ending and target.exists():
        # It is replaced as a whole: nothing but what an export wrote may be inside.
        found = ['a file'] if target.is_file() else sorted(os.listdir(target))
        others = sorted(set(found) - set(FOLDER_FILES[format]))
        if not others and found and not _is_export(target, format):
            others = [f'{short_list(found)}, which no export of tl_plugin wrote']
        if others:
            raise ValueError(
                f'{format} is written to a folder of its own, and {target} is there with '
                f'{short_list(others, 3)}: give a new one'
            )
    if card and card_path(target).exists():
        raise ValueError(
            f'there is a card at {card_path(target)}, perhaps with fields that someone has filled '
            'in: move it, or write to another name'
        )


def _is_export(folder: Path, format: str) -> bool:
    """Return whether an export wrote the files in a folder, and nobody else."""
    try:
        if format == 'timm':
            return 'tl_plugin' in (read_json(folder / 'config.json') or {})
        return 'provenance' in checkpoint_weights(folder / 'model.pth')[1]
    except (ValueError, FileNotFoundError):
        return False


def place(written: Path, target: Path) -> Path:
    """Move what was checked to its place."""
    for path in [written, *written.glob('*')]:
        if path.is_file():
            path.chmod(0o644)  # some writers let nobody else read
    if written.is_dir():
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(written, target)
        return target
    for part in written.parent.glob(f'{written.name}*'):
        # A large ONNX file keeps its weights in a second one.
        os.replace(part, target.with_name(part.name))
    return target


def place_standalone(target: Path) -> Path:
    """Write the program that labels folders beside an ONNX file; returns its place."""
    path = target.with_name(f'{target.stem}_predict.py')
    shutil.copyfile(STANDALONE, path)
    return path
