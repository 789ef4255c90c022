"""Where what is exported is written, and what may lie there before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
FOLDER_FILES = {'config.json', 'model.safetensors', 'config.py', 'model.pth'}
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
        others = ['a file'] if target.is_file() else sorted(set(os.listdir(target)) - FOLDER_FILES)
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
